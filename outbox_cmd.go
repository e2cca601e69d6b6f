package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"novu-slack-redirect/outbox"
)

const outboxHelp = `usage: novu-slack-redirect outbox list               what Novu does not have yet
       novu-slack-redirect outbox drain              send what is due, and exit
       novu-slack-redirect outbox drop DESTINATION   give one up, as list names it

An embedded store is open to one process at a time: stop the service first, or use REDIS_URL.

example:
  novu-slack-redirect outbox list
`

// outboxCommand lists, sends or drops what Novu does not have yet.
func outboxCommand(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var work func(*service) (bool, error)
	switch {
	case len(args) == 1 && args[0] == "list":
		work = func(s *service) (bool, error) { return true, listOutbox(ctx, s.entries, stdout) }
	case len(args) == 1 && args[0] == "drain":
		work = func(s *service) (bool, error) {
			sent, failed, err := s.outbox.Drain(ctx)
			fmt.Fprintf(stdout, "%d sent, %d to be tried again\n", sent, failed)
			if n, lenErr := s.entries.Len(ctx); lenErr == nil && n > failed {
				fmt.Fprintf(stdout, "not due yet: %d; all are when the service starts\n", n-failed)
			}
			return failed == 0, err
		}
	case len(args) == 2 && args[0] == "drop":
		destination, err := outbox.ParseDestination(args[1])
		if err != nil {
			fmt.Fprintln(stderr, "novu-slack-redirect: outbox drop:", err)
			return exitUsage
		}
		work = func(s *service) (bool, error) {
			dropped, err := s.entries.Drop(ctx, destination, time.Now())
			if err == nil && !dropped {
				err = fmt.Errorf("there is no entry for %s", destination)
			}
			return true, err
		}
	default:
		fmt.Fprint(stderr, outboxHelp)
		return exitUsage
	}
	c, ok := loadConfigOr(stderr)
	if !ok {
		return exitUsage
	}
	service, err := newService(c, newLogger(c, stderr))
	if err == nil {
		defer service.close()
		ok, err = work(service)
	}
	if err != nil {
		fmt.Fprintln(stderr, "novu-slack-redirect:", err)
	}
	if err != nil || !ok {
		return exitFailed
	}
	return exitOK
}

func listOutbox(ctx context.Context, entries outbox.Store, stdout io.Writer) error {
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "DESTINATION\tAGE\tATTEMPTS\tLAST ERROR")
	err := entries.List(ctx, func(e outbox.Entry) error {
		_, err := fmt.Fprintf(table, "%s\t%s\t%d\t%s\n", e.Destination, time.Since(e.Recorded).Round(time.Second), e.Attempts, e.LastError)
		return err
	})
	if err != nil {
		return err
	}
	return table.Flush()
}
