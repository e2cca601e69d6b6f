package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"novu-slack-redirect/service"
	"novu-slack-redirect/state"
)

const outboxHelp = `  list            list the connections that are not in Novu yet
  drain [--now]   send those that are due, with --now all, and exit
  drop FLOW       give up the one that list shows as FLOW

Only one process can open DATA_FILE: stop the service first. With REDIS_URL it can keep running.
`

// runOutbox lists, sends or drops connections that are not in Novu yet.
func runOutbox(ctx context.Context, args []string, stdout io.Writer, stderr *service.LogWriter) error {
	isDrop := len(args) == 2 && args[0] == "drop"
	action := strings.Join(args, " ")
	if !isDrop && !slices.Contains([]string{"list", "drain", "drain --now"}, action) {
		return usageError("expects list, drain [--now], or drop FLOW")
	}
	c, err := loadSettings()
	if err != nil {
		return err
	}
	s, err := service.New(c, stderr)
	if err != nil {
		return err
	}
	defer s.Close()
	switch {
	case isDrop:
		return dropFlow(ctx, s, args[1])
	case action == "list":
		return listOutbox(ctx, s, stdout)
	case action == "drain --now":
		if err := s.Outbox.WakeAll(ctx); err != nil {
			return err
		}
	}
	return drainOutbox(ctx, s, stdout)
}

// listOutbox names each flow by its ID, which log lines show, or by its key if its record
// cannot be opened.
func listOutbox(ctx context.Context, s *service.Service, stdout io.Writer) error {
	table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "FLOW\tSUBSCRIBER\tINTEGRATION\tWAITS FOR\tAGE\tATTEMPTS\tNEXT\tLAST ERROR")
	err := listBoth(ctx, s, func(f state.Flow, unreadable error) error {
		waitsFor, age, last := map[state.Phase]string{state.Working: "Slack", state.Recorded: "Novu", state.Saved: "EVENTS_URL"}[f.Phase], "", f.LastError
		if unreadable != nil {
			waitsFor, last = "STORE_SECRET", unreadable.Error()
		}
		if !f.Consumed.IsZero() {
			age = time.Since(f.Consumed).Round(time.Second).String()
		}
		_, err := fmt.Fprintf(table, "%s\t%q\t%s\t%s\t%s\t%d\t%s\t%s\n", cmp.Or(f.ID, string(f.Key)), f.Request.Subscriber, f.Request.Integration, waitsFor, age,
			f.Attempts, max(0, time.Until(f.Due)).Round(time.Second), last)
		return err
	})
	return errors.Join(err, table.Flush())
}

// listBoth calls fn with each flow that Novu does not have yet, and then with each whose
// event the app does not have yet.
func listBoth(ctx context.Context, s *service.Service, fn func(state.Flow, error) error) error {
	if err := s.Store.List(ctx, state.Deliveries, fn); err != nil {
		return err
	}
	return s.Store.List(ctx, state.Events, fn)
}

func drainOutbox(ctx context.Context, s *service.Service, stdout io.Writer) error {
	sent, waiting, err := s.Outbox.Drain(ctx)
	fmt.Fprintf(stdout, "%d sent, %d to be tried again\n", sent, waiting)
	if deliveries, events, countErr := s.Outbox.Waiting(ctx); countErr == nil && deliveries.N+events.N > waiting {
		fmt.Fprintf(stdout, "not due yet: %d; all are with drain --now, and when the service starts\n", deliveries.N+events.N-waiting)
	}
	if err == nil && waiting > 0 {
		return errReported
	}
	return err
}

func dropFlow(ctx context.Context, s *service.Service, name string) error {
	var found state.Key
	err := listBoth(ctx, s, func(f state.Flow, _ error) error {
		if cmp.Or(f.ID, string(f.Key)) == name || string(f.Key) == name {
			found = f.Key
		}
		return nil
	})
	if err != nil {
		return err
	}
	if found == "" {
		return fmt.Errorf("there is no flow %q in the outbox", name)
	}
	return s.Store.Drop(ctx, found)
}
