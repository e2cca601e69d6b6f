// Package metrics counts how the service fares, for Prometheus. Labels hold codes
// of this program and nothing that a person, Slack or Novu wrote.
package metrics

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics are the counters of the service. They count whether or not Handler is served.
type Metrics struct {
	FlowsBegun    prometheus.Counter
	FlowsFinished *prometheus.CounterVec // by code: connected, pending, or how it failed
	Problems      *prometheus.CounterVec // by code: failures that were answered; not those that alarm the operator and that anyone with a link can cause
	Exchange      prometheus.Histogram   // of a code with Slack, with its repeats
	Save          prometheus.Histogram   // one attempt with Novu
	Saves         *prometheus.CounterVec // by result: saved, or the reason of package novuclient why not
	StoreErrors   prometheus.Counter

	Events           *prometheus.CounterVec // by result: delivered or failed
	DoubleDeliveries prometheus.Counter     // saved connections whose subscriber has another channel that gets every message
	LogLinesDropped  func() float64         // returns how many lines the log has lost; set before Handler

	registry *prometheus.Registry
}

const prefix = "slack_redirect_"

// New returns Metrics at zero.
func New() *Metrics {
	registry := prometheus.NewRegistry()
	register := promauto.With(registry)
	counter := func(name, help string) prometheus.Counter {
		return register.NewCounter(prometheus.CounterOpts{Name: prefix + name, Help: help})
	}
	counters := func(name, help, label string) *prometheus.CounterVec {
		return register.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, []string{label})
	}
	seconds := func(name, help string) prometheus.Histogram {
		return register.NewHistogram(prometheus.HistogramOpts{Name: prefix + name, Help: help, Buckets: []float64{.05, .1, .2, .3, .5, .75, 1, 2, 3, 5, 10, 20}})
	}
	return &Metrics{
		registry:         registry,
		FlowsBegun:       counter("flows_begun_total", "People sent to Slack."),
		FlowsFinished:    counters("flows_finished_total", "Flows that ended, by code: connected, pending, or one of docs/errors.md.", "code"),
		Problems:         counters("problems_total", "Failures that were answered, by code of docs/errors.md.", "code"),
		Exchange:         seconds("exchange_seconds", "Exchange of a code with Slack, with its repeats."),
		Save:             seconds("save_seconds", "One attempt to save a connection in Novu."),
		Saves:            counters("saves_total", "Attempts to save a connection in Novu, by result: saved, or why not.", "result"),
		Events:           counters("events_total", "Attempts to send an event to EVENTS_URL, by result.", "result"),
		DoubleDeliveries: counter("double_deliveries_total", "Saved connections whose subscriber has another channel that gets every message, too."),
		LogLinesDropped:  func() float64 { return 0 },
		StoreErrors:      counter("store_errors_total", "Calls of Redis or of the data file that failed."),
	}
}

// Outbox is the part of *outbox.Outbox that Handler needs.
type Outbox interface {
	// Waiting returns what Novu does not have yet, and what EVENTS_URL does not.
	Waiting(ctx context.Context) (turns, deliveries, events Waiting, err error)
}

// Waiting is how many flows wait, and the age of the oldest of a thousand.
type Waiting struct {
	N      int
	Oldest time.Duration
}

// scrapeTimeout limits how long reading the metrics waits for the outbox.
const scrapeTimeout = 2 * time.Second

// Handler serves all metrics with those of the outbox, of this build and of Go.
func (m *Metrics) Handler(version string, outbox Outbox) http.Handler {
	registry := prometheus.NewRegistry() // of what is not counted
	register := promauto.With(registry)
	register.NewGauge(prometheus.GaugeOpts{Name: prefix + "build_info", Help: "1, for this version.", ConstLabels: prometheus.Labels{"version": version}}).Set(1)
	register.NewCounterFunc(prometheus.CounterOpts{Name: prefix + "log_lines_dropped_total", Help: "Log lines that could not be written, or not soon enough."}, m.LogLinesDropped)
	registry.MustRegister(waiting{outbox}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(prometheus.Gatherers{m.registry, registry}, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

// waiting collects the outbox's numbers when metrics are read. If the outbox fails,
// there are none, rather than wrong ones.
type waiting struct{ Outbox }

// Describe implements prometheus.Collector. It describes nothing: to read the numbers
// takes the store, which may be down.
func (waiting) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (w waiting) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	turns, deliveries, events, err := w.Waiting(ctx)
	if err != nil {
		return
	}
	gauge := func(name, help string, value float64) {
		to <- prometheus.MustNewConstMetric(prometheus.NewDesc(prefix+name, help, nil, nil), prometheus.GaugeValue, value)
	}
	gauge("turns_waiting", "Codes that wait for their turn at Slack, which limits the rate.", float64(turns.N))
	gauge("outbox_entries", "Connections that Novu does not have yet.", float64(deliveries.N))
	gauge("outbox_oldest_seconds", "Age of the oldest of them, of a thousand at most.", deliveries.Oldest.Seconds())
	gauge("events_waiting", "Events that EVENTS_URL does not have yet.", float64(events.N))
	gauge("events_oldest_seconds", "Age of the oldest of them, of a thousand at most.", events.Oldest.Seconds())
}
