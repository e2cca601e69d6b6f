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
	"log"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"syscall"

	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
)

func main() {
	// Only net/http's client writes there: it quotes what an upstream sent unasked,
	// which may be a webhook or a token.
	log.SetOutput(io.Discard)
	redis.SetLogger(redisLogger{zerolog.Nop()}) // serve has a log for it
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
	takesArgs         bool
	run               func(ctx context.Context, args []string, stdout, stderr io.Writer) int
}

func commands() []command {
	return []command{
		{"serve", "run the service (the default)", serveHelp, false, serve},
		{"demo", "try everything on this machine, with a simulated Slack and Novu", demoHelp, false, demo},
		{"check", "look for mistakes in the set-up", checkHelp, true, check},
		{"manifest", "print the manifest of the Slack app", manifestHelp, false, manifest},
		{"link", "print an install link for a subscriber", linkHelp, true, link},
		{"outbox", "list, send or drop what Novu does not have yet", outboxHelp, true, outboxCommand},
		{"health", "ask the service on this machine whether it is ready", healthHelp, false, health},
		{"version", "print the version", versionHelp, false, printVersion},
	}
}

// run is the program: it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		args = []string{"serve"}
	}
	name, args := args[0], args[1:]
	if name == "help" && len(args) > 0 {
		name, args = args[0], []string{"--help"}
	}
	asksHelp := func(arg string) bool { return slices.Contains([]string{"-h", "-help", "--help"}, arg) }
	i := slices.IndexFunc(commands(), func(c command) bool { return c.name == name })
	switch {
	case name == "--version":
		return printVersion(ctx, nil, stdout, stderr)
	case name == "help" || asksHelp(name):
		usage(stdout)
		return exitOK
	case i < 0:
		fmt.Fprintf(stderr, "novu-slack-redirect: there is no command %q\n\n", name)
		usage(stderr)
		return exitUsage
	}
	switch c := commands()[i]; {
	case slices.ContainsFunc(args, asksHelp):
		fmt.Fprint(stdout, c.help)
		return exitOK
	case !c.takesArgs && len(args) > 0:
		fmt.Fprintf(stderr, "novu-slack-redirect %s: takes no arguments; settings come from the environment; see novu-slack-redirect %s --help\n", name, name)
		return exitUsage
	default:
		return c.run(ctx, args, stdout, stderr)
	}
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

// version is set by the build: -ldflags "-X main.version=1.2.3".
var version = ""

const versionHelp = `usage: novu-slack-redirect version

example:
  novu-slack-redirect version
`

func printVersion(_ context.Context, _ []string, stdout, stderr io.Writer) int {
	fmt.Fprintln(stdout, "novu-slack-redirect", programVersion())
	return exitOK
}

func programVersion() string {
	if info, ok := debug.ReadBuildInfo(); version == "" && ok {
		return info.Main.Version
	}
	return version
}
