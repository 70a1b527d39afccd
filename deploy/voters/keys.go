package main

import (
	"waggle/deploy/voters/judge"
)

func nobody(string) (judge.Pseudonym, error) { return judge.Pseudonym{}, nil }

func readKeys(file string, poll int32) (func(string) (judge.Pseudonym, error), error) {
	return nobody, nil
}
