// Command novu-slack-redirect is the Redirect URL of a Slack app whose incoming
// webhooks belong to Novu subscribers: a signed link sends a person to Slack,
// Slack's webhook URL comes back, and the service saves it on that person's
// subscriber.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// Exit codes of every command.
const (
	exitOK     = 0
	exitFailed = 1 // it was tried, and did not work
	exitUsage  = 2 // the arguments or the settings are wrong: nothing was tried
)

// command is what the first argument names. It ends when ctx does.
type command struct {
	name, about, help string
	run               func(ctx context.Context, args []string, stdout, stderr io.Writer) int
}

func commands() []command {
	return []command{
		{"serve", "run the service (the default)", serveHelp, serve},
		{"demo", "try everything on this machine, with a simulated Slack and Novu", demoHelp, demo},
		{"check", "look for mistakes in the set-up", checkHelp, check},
		{"manifest", "print the manifest of the Slack app", manifestHelp, manifest},
		{"link", "print an install link for a subscriber", linkHelp, link},
		{"outbox", "list, send or drop what Novu does not have yet", outboxHelp, outboxCommand},
		{"health", "ask the service on this machine whether it is ready", healthHelp, health},
		{"version", "print the version", versionHelp, printVersion},
	}
}

// run is the program: it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		args = []string{"serve"}
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		for _, c := range commands() {
			if len(args) > 1 && c.name == args[1] {
				fmt.Fprint(stdout, c.help)
				return exitOK
			}
		}
		usage(stdout)
		return exitOK
	}
	for _, c := range commands() {
		if c.name == args[0] && slices.ContainsFunc(args[1:], func(arg string) bool { return arg == "-h" || arg == "-help" || arg == "--help" }) {
			fmt.Fprint(stdout, c.help)
			return exitOK
		}
		if c.name == args[0] {
			return c.run(ctx, args[1:], stdout, stderr)
		}
	}
	fmt.Fprintf(stderr, "novu-slack-redirect: there is no command %q\n\n", args[0])
	usage(stderr)
	return exitUsage
}

func usage(w io.Writer) {
	fmt.Fprintln(w, "usage: novu-slack-redirect [command]")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-9s %s\n", c.name, c.about)
	}
	fmt.Fprintln(w, "\nSettings come from the environment; the README lists them. To see it work: novu-slack-redirect demo\nMore about a command: novu-slack-redirect COMMAND --help")
}

// parse reads flags and exactly n words, in any order. It tells stderr what is
// wrong, and where to find help.
func parse(flags *flag.FlagSet, args []string, n int, stderr io.Writer) (words []string, ok bool) {
	flags.SetOutput(io.Discard)
	err := flags.Parse(args)
	for err == nil && flags.NArg() > 0 {
		words = append(words, flags.Arg(0))
		err = flags.Parse(flags.Args()[1:])
	}
	if err == nil && len(words) != n {
		err = fmt.Errorf("got %d arguments, want %d", len(words), n)
	}
	if err != nil {
		fmt.Fprintf(stderr, "novu-slack-redirect %s: %v; see novu-slack-redirect %s --help\n", flags.Name(), err, flags.Name())
	}
	return words, err == nil
}

// noArgs reports whether a command that takes no arguments got none.
func noArgs(name string, args []string, stderr io.Writer) bool {
	if len(args) > 0 {
		fmt.Fprintf(stderr, "novu-slack-redirect %s: takes no arguments; settings come from the environment; see novu-slack-redirect %s --help\n", name, name)
		return false
	}
	return true
}

// version is set by the build: -ldflags "-X main.version=1.2.3".
var version = ""

const versionHelp = `usage: novu-slack-redirect version

example:
  novu-slack-redirect version
`

func printVersion(_ context.Context, args []string, stdout, stderr io.Writer) int {
	if !noArgs("version", args, stderr) {
		return exitUsage
	}
	fmt.Fprintln(stdout, "novu-slack-redirect", programVersion())
	return exitOK
}

func programVersion() string {
	if info, ok := debug.ReadBuildInfo(); version == "" && ok {
		return info.Main.Version
	}
	return version
}
