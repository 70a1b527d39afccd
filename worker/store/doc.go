// Package store keeps the tally in Postgres.
//
// It stands at the end of a vote's way: package drain reads a node's stream and hands over one batch; the store writes
// it in one statement that moves the stream's cursor, the votes, the tally and the rejects together or not at all.
// Results functions read what it wrote through the views result_tally, result_ledger and result_health.
//
// It guarantees that an entry of a stream changes the tally at most once, however often and by however many workers it
// is delivered, and that what can't be counted is a number in the ledger.
package store
