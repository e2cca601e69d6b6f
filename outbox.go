package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"novu-slack-redirect/config"
	"novu-slack-redirect/service"
	"novu-slack-redirect/state"
)

const outboxHelp = `  list            list the connections that are not in Novu yet, and the events that
                  EVENTS_URL does not have yet
  drain [--now]   send those that are due, with --now all but what an instance may be
                  working on, and exit
  drop FLOW       give up the one that list shows as FLOW

Only one process can open DATA_FILE. While the service has it, list and drain --now ask
the service, at METRICS_ADDR; for drop stop it first. With REDIS_URL it can keep running.
`

// runOutbox lists, sends or drops connections that are not in Novu yet.
func runOutbox(ctx context.Context, args []string, stdout io.Writer, stderr *service.LogWriter) error {
	isDrop := len(args) == 2 && args[0] == "drop"
	action := strings.Join(args, " ")
	switch {
	case action == "":
		return usageError("an action is missing")
	case action == "drop":
		return usageError("FLOW is missing")
	case !isDrop && !slices.Contains([]string{"list", "drain", "drain --now"}, action):
		return usageError(fmt.Sprintf("there is no %q", "outbox "+action))
	}
	c, err := loadSettings()
	if err != nil {
		return err
	}
	s, err := service.New(c, stderr)
	if errors.Is(err, state.ErrInUse) {
		return askForOutbox(ctx, c, action, stdout)
	}
	if err != nil {
		return err
	}
	defer s.Close()
	switch {
	case isDrop:
		return dropFlow(ctx, s, args[1])
	case action == "list":
		table := newOutboxTable(stdout)
		err := s.EachWaiting(ctx, table.add)
		return errors.Join(service.StoreError(err), table.Flush())
	case action == "drain --now":
		if err := s.Outbox.WakeAll(ctx); err != nil {
			return service.StoreError(err)
		}
	}
	return drainOutbox(ctx, s, action == "drain --now", stdout)
}

// outboxTable prints one line for each flow. Log lines show its first column.
type outboxTable struct{ *tabwriter.Writer }

func newOutboxTable(to io.Writer) outboxTable {
	table := outboxTable{tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)}
	fmt.Fprintln(table, "FLOW\tSUBSCRIBER\tINTEGRATION\tCHANNEL\tWAITS FOR\tAGE\tATTEMPTS\tNEXT\tREASON")
	return table
}

// add adds a flow, and reports whether the output takes more. If it does not, Flush returns
// the error.
func (t outboxTable) add(f service.WaitingFlow) (more bool) {
	age := ""
	if !f.Since.IsZero() {
		age = time.Since(f.Since).Round(time.Second).String()
	}
	next := max(0, time.Until(f.Next)).Round(time.Second).String()
	if f.Next.IsZero() {
		next = "in turn"
	}
	_, err := fmt.Fprintf(t, "%s\t%q\t%s\t%q\t%s\t%s\t%d\t%s\t%s\n", f.Flow, f.Subscriber, f.Integration, f.Channel, f.WaitsFor, age,
		f.Attempts, next, f.Reason)
	return err == nil
}

// askForOutbox asks the service that has DATA_FILE open for its outbox, or to work on all of
// it now.
func askForOutbox(ctx context.Context, c config.Config, action string, stdout io.Writer) error {
	_, port, _ := net.SplitHostPort(c.MetricsAddr)
	method, path := http.MethodGet, "/outbox"
	switch {
	case action == "drain --now":
		method, path = http.MethodPost, "/outbox/drain"
	case action != "list":
		return &service.Error{Err: state.ErrInUse, Remedy: "the running service sends what is due by itself, and all with drain --now; to drop a flow, stop the service first"}
	}
	if c.MetricsAddr == "" || port == "0" {
		return &service.Error{Err: state.ErrInUse, Remedy: "set METRICS_ADDR to a fixed port, such as 127.0.0.1:9090, and the running service is asked there; or restart it: all are due at its start"}
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var list service.OutboxList
	res, err := askService(ctx, method, c.MetricsAddr, "localhost", path)
	if err == nil {
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			err = fmt.Errorf("HTTP %d", res.StatusCode)
		} else if action == "list" {
			err = json.NewDecoder(res.Body).Decode(&list)
		}
	}
	if err != nil {
		return &service.Error{Err: fmt.Errorf("DATA_FILE is in use by another process, and METRICS_ADDR does not answer as the service: %w", err),
			Remedy: "see that METRICS_ADDR is what the running service has, and its log; or restart it: all are due at its start"}
	}
	if action != "list" {
		_, err := fmt.Fprintln(stdout, "all is due now, except what was due within a minute anyway; the running service works on it: see outbox list")
		return err
	}
	table := newOutboxTable(stdout)
	for _, f := range list.Flows {
		table.add(f)
	}
	if list.More {
		fmt.Fprintln(table, "... and more")
	}
	return table.Flush()
}

// drainOutbox advances what is due. Of everything, now, only flows that were due within a
// minute anyway are left: see state.Store.Wake.
func drainOutbox(ctx context.Context, s *service.Service, now bool, stdout io.Writer) error {
	sent, waiting, err := s.Outbox.Drain(ctx)
	fmt.Fprintf(stdout, "%d sent, %d to be tried again\n", sent, waiting)
	turns, deliveries, events, countErr := s.Outbox.Waiting(ctx)
	left := deliveries.N + events.N - waiting
	switch {
	case countErr != nil || left <= 0:
	case now:
		fmt.Fprintf(stdout, "left: %d, which are due within a minute; an instance may be working on them: run drain --now again in a minute\n", left)
	default:
		fmt.Fprintf(stdout, "not due yet: %d; drain --now sends them, except those that are due within a minute\n", left)
	}
	if turns.N > 0 {
		fmt.Fprintf(stdout, "waiting for their turn at Slack, which limits the rate: %d\n", turns.N)
	}
	if err == nil && waiting > 0 {
		return errReported
	}
	return service.StoreError(err)
}

func dropFlow(ctx context.Context, s *service.Service, name string) error {
	var found state.Key
	err := s.EachWaiting(ctx, func(f service.WaitingFlow) bool {
		if f.Flow == name || string(f.Record) == name {
			found = f.Record
		}
		return found == ""
	})
	if err == nil && found == "" {
		return &service.Error{Err: fmt.Errorf("there is no flow %q in the outbox", name), Remedy: "see novu-slack-redirect outbox list"}
	}
	if err == nil {
		err = s.Store.Drop(ctx, found)
	}
	return service.StoreError(err)
}
