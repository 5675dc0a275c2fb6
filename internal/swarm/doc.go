// Package swarm is the scenario that the mesh is judged by: a source and many viewers as real processes, each on a test host
// with an uplink as homes have them, who know a few of each other and find the rest themselves.
//
//	camera ─▶ ingest ─▶ (block stream, read on the way) ─▶ relay ═ emulated links ═▶ watch … watch ─▶ a judge each
//
// The package makes the stream, remembers when each packet was there to be read, and compares every byte that a viewer writes
// with it. What ingest's block stream says is only used to know which packets are a block. Nothing here believes the
// counters of the programs under test: bytes are counted and classified by the emulator, as they pass.
//
// A program that uses it runs under [testnet.Inside].
package swarm
