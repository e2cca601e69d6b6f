// Command novu-slack-redirect is the Redirect URL of a Slack app whose incoming
// webhooks belong to Novu subscribers: a signed link sends a person to Slack,
// Slack's webhook URL comes back, and the service saves it on that person's
// subscriber.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"novu-slack-redirect/config"
	"novu-slack-redirect/service"
	"novu-slack-redirect/state"
	"novu-slack-redirect/upstream"
)

func main() {
	// Only net/http's client writes to the standard log. It quotes unsolicited answers,
	// which may contain a webhook or a token.
	log.SetOutput(io.Discard)
	redis.SetLogger(state.RedisLogger{Log: zerolog.Nop()}) // Service.Run sets a real one
	// Three quarters of the container's memory, or of the machine's, unless GOMEMLIMIT is
	// set. The rest is for the program's file, the data file and the kernel's buffers.
	memlimit.Set(memlimit.WithRatio(0.75), memlimit.WithProvider(memlimit.ApplyFallback(memlimit.FromCgroup, memlimit.FromSystem)))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)   // a second signal ends the program at once
	signal.Ignore(syscall.SIGPIPE) // whoever stops reading the output or the log does not end the program
	stderr := service.NewLogWriter(os.Stderr)
	code := run(ctx, os.Args[1:], os.Stdout, stderr)
	stderr.Close()
	os.Exit(code)
}

// Exit codes of every command.
const (
	exitOK     = 0
	exitFailed = 1                          // the command ran and failed
	exitUsage  = 2                          // the arguments or the settings are wrong; nothing was done
	exitPipe   = 128 + int(syscall.SIGPIPE) // nobody reads the output any more, as shells report it of other programs
)

// command is a subcommand. Its run ends when ctx does.
type command struct {
	name    string // the first argument
	args    string // the others, for people; "" is none
	about   string // in one line
	help    string // more about it, with its flags
	example string // arguments of the program
	run     func(ctx context.Context, args []string, stdout io.Writer, stderr *service.LogWriter) error
}

var commands = []command{
	{"serve", "", "run the service (the default)", serveHelp, "serve", serve},
	{"demo", "", "try everything on this machine, with a simulated Slack and Novu", demoHelp, "demo", runDemo},
	{"check", "[--json] [--public] [--event] [--subscriber ID]", "look for mistakes in the set-up", checkHelp, "check --subscriber ada@example.com", runCheck},
	{"manifest", "", "print the manifest of the Slack app", manifestHelp, "manifest > slack-app.yaml", printManifest},
	{"disconnect", "SUBSCRIBER_ID [flags]", "disconnect a subscriber's Slack channel", disconnectHelp, "disconnect ada@example.com", runDisconnect},
	{"link", "SUBSCRIBER_ID [flags]", "print an install link for a subscriber", linkHelp, "link ada@example.com --expires 24h --html", printLink},
	{"outbox", "(list | drain [--now] | drop FLOW)", "list, send or drop connections that are not in Novu yet", outboxHelp, "outbox list", runOutbox},
	{"health", "", "ask the service on this machine whether it is ready", healthHelp, "health", checkHealth},
	{"version", "", "print the version", "Prints the version.\n", "version", printVersion},
}

// usageError is a mistake in the arguments. run adds what to write instead.
type usageError string

func (e usageError) Error() string { return string(e) }

// settingsError lists every problem with the settings.
type settingsError []config.Problem

func (settingsError) Error() string { return "the settings are wrong" }

// errReported is returned by a command that has printed or logged its error itself.
var errReported = errors.New("failed")

// run runs the command that args name and returns the exit code.
func run(ctx context.Context, args []string, stdout io.Writer, stderr *service.LogWriter) int {
	if len(args) == 0 {
		args = []string{"serve"}
	}
	name, args := args[0], args[1:]
	if name == "help" && len(args) > 0 {
		name, args = args[0], []string{"--help"}
	}
	if name == "--version" {
		name = "version"
	}
	isHelp := func(arg string) bool { return slices.Contains([]string{"-h", "-help", "--help"}, arg) }
	if name == "help" || isHelp(name) {
		printUsage(stdout)
		return exitOK
	}
	i := slices.IndexFunc(commands, func(c command) bool { return c.name == name })
	if i < 0 {
		var names []string
		for _, c := range commands {
			names = append(names, c.name)
		}
		fmt.Fprintf(stderr, "novu-slack-redirect: there is no command %q; use one of %s; see novu-slack-redirect --help\n", name, strings.Join(names, ", "))
		return exitUsage
	}
	c := commands[i]
	usageLine := strings.TrimSpace("novu-slack-redirect " + c.name + " " + c.args)
	if slices.ContainsFunc(args, isHelp) {
		fmt.Fprintf(stdout, "usage: %s\n\n%s\nexample:\n  novu-slack-redirect %s\n", usageLine, c.help, c.example)
		return exitOK
	}
	var err error
	if c.args == "" && len(args) > 0 {
		err = usageError(fmt.Sprintf("%q is not expected: settings, such as PORT, come from the environment", args[0]))
	} else {
		err = c.run(ctx, args, stdout, stderr)
	}
	var usage usageError
	var settings settingsError
	var output *fs.PathError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &settings):
		for _, p := range settings {
			fmt.Fprintln(stderr, p)
		}
		return exitUsage
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "novu-slack-redirect %s: %v; write %s; see novu-slack-redirect %s --help\n", name, err, usageLine, name)
		return exitUsage
	case errors.As(err, &output) && output.Path == os.Stdout.Name():
		if errors.Is(output, syscall.EPIPE) {
			return exitPipe // such as of: outbox list | head -1
		}
		fmt.Fprintf(stderr, "novu-slack-redirect %s: %v; see that the output can be written\n", name, err)
	case errors.As(err, new(*service.Error)): // which ends with the remedy
		fmt.Fprintf(stderr, "novu-slack-redirect %s: %v\n", name, err)
	case !errors.Is(err, errReported):
		fmt.Fprintf(stderr, "novu-slack-redirect %s: %v; see novu-slack-redirect %s --help\n", name, err, name)
	}
	return exitFailed
}

func printUsage(w io.Writer) {
	fmt.Fprintln(w, "usage: novu-slack-redirect [command]")
	for _, c := range commands {
		fmt.Fprintf(w, "  %-12s%s\n", c.name, c.about)
	}
	fmt.Fprintln(w, "\nSettings come from the environment; docs/settings.md lists them. To see it work: novu-slack-redirect demo\nMore about a command: novu-slack-redirect COMMAND --help")
}

// flagErrors turns errors of package flag into those that other commands have.
var flagErrors = strings.NewReplacer("flag provided but not defined: -", "there is no flag --", "flag needs an argument: -", "a value is missing after --", " for flag -", " for --", " for -", " for --")

// parseArgs parses flags, and the other arguments that names are for, in any order.
func parseArgs(flags *flag.FlagSet, args []string, names ...string) (words []string, err error) {
	flags.SetOutput(io.Discard)
	err = flags.Parse(args)
	for err == nil && flags.NArg() > 0 {
		words = append(words, flags.Arg(0))
		err = flags.Parse(flags.Args()[1:])
	}
	switch {
	case err != nil:
		return nil, usageError(flagErrors.Replace(err.Error()))
	case len(words) < len(names):
		return nil, usageError(names[len(words)] + " is missing")
	case len(words) > len(names):
		return nil, usageError(fmt.Sprintf("%q is one argument too many", words[len(names)]))
	}
	return words, nil
}

// loadSettings reads the settings, or returns a settingsError.
func loadSettings() (config.Config, error) {
	c, problems := config.Load()
	if len(problems) > 0 {
		return c, settingsError(problems)
	}
	return c, nil
}

func printVersion(_ context.Context, _ []string, stdout io.Writer, _ *service.LogWriter) error {
	_, err := fmt.Fprintln(stdout, "novu-slack-redirect", upstream.Version())
	return err
}
