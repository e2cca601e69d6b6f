//go:build race

package e2e_test

// raceDetector says that the tests were built with -race: then the program is too.
const raceDetector = true
