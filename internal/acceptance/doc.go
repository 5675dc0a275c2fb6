// Package acceptance tests what sixcast promises to a person: the real commands, as real processes, on test hosts
// (package testnet) or one machine, fed with short clips that ffmpeg makes. Every test is a statement about behaviour;
// what it measures is logged, and held to a bound.
//
//	                              ┌──────────── truth: what ingest accepted, block by block
//	clip ─▶ ingest ─▶ the test ───┤
//	                              └─▶ relay ─▶ network ─▶ relay ─▶ … ─▶ watch ─▶ the test: held against the truth
//
// The truth is the block stream itself, read with the channel's own checks; the clip's packets, found by code of this
// package alone, say that ingest took nothing away. What watch writes must be the truth's bytes, or lack whole blocks
// that it counted: there is never a wrong byte.
//
// SIXCAST_SOAK=1 adds what takes long or needs a machine to itself (make soak). Clips lie in build/clips/acceptance and
// are made when they are missing; SIXCAST_BIN names a directory with commands to test instead of those built here.
package acceptance
