// Package interop holds tests in which sixcast talks with other people's programs: its tracker with their clients, its client with
// their trackers. What is not installed is skipped, by name.
package interop
