// Package play turns blocks that come in any order into a transport stream in
// order, and brings it to readers that may be slow.
//
//	engine → Stream.Put → Sequencer (order, gaps, runs) → Reader (bounded) → Write → stdout, player, file
//
// [Sequencer] decides: it has no clock, no goroutine and does no I/O, so every
// rule of it is tested in virtual time. [Stream] runs one on the real clock
// and hands what comes out to any number of [Reader] queues, none of which can
// hold up the engine. [Write] makes bytes of it.
//
// The output is bit-transparent: the packets of the blocks as they came, with
// two exceptions where a receiver enters the stream anew. A preamble (PAT and
// PMT) is written before the first block, and at a change of the run, or where
// a reader was too slow, packets that carry only the discontinuity_indicator
// go before it. A gap is left as it is: continuity counters tell the truth.
package play
