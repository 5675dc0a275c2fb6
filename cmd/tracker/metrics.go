package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sixcast/sixcast/pkg/tracker"
)

// metric is one that Prometheus gets.
type metric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*tracker.ServiceStats) float64
}

func gauge(name, help string, value func(*tracker.ServiceStats) int) metric {
	return metric{prometheus.NewDesc("sixcast_tracker_"+name, help, nil, nil), prometheus.GaugeValue, func(s *tracker.ServiceStats) float64 { return float64(value(s)) }}
}

func counter(name, help string, value func(*tracker.ServiceStats) uint64) metric {
	return metric{prometheus.NewDesc("sixcast_tracker_"+name+"_total", help, nil, nil), prometheus.CounterValue,
		func(s *tracker.ServiceStats) float64 { return float64(value(s)) }}
}

// collector hands a reading of a service to Prometheus.
type collector struct {
	service *tracker.Service
	metrics []metric
}

func newCollector(s *tracker.Service) *collector {
	return &collector{s, []metric{
		gauge("swarms", "Swarms that have peers.", func(s *tracker.ServiceStats) int { return s.Swarms }),
		gauge("peers", "Peers in all swarms.", func(s *tracker.ServiceStats) int { return s.Peers }),
		gauge("channels", "Channels whose descriptors are known.", func(s *tracker.ServiceStats) int { return s.Channels }),
		gauge("members", "Trackers of the cluster, this one included; 0 without one.", func(s *tracker.ServiceStats) int { return s.Members }),
		counter("connects", "Connects answered.", func(s *tracker.ServiceStats) uint64 { return s.Connects }),
		counter("announces", "Announces answered.", func(s *tracker.ServiceStats) uint64 { return s.Announces }),
		counter("scrapes", "Scrapes answered.", func(s *tracker.ServiceStats) uint64 { return s.Scrapes }),
		counter("unknown", "Announces to channels that are not served.", func(s *tracker.ServiceStats) uint64 { return s.Unknown }),
		counter("full", "Announces for which there was no room.", func(s *tracker.ServiceStats) uint64 { return s.Full }),
		counter("strangers", "Requests with a connection id that was not good.", func(s *tracker.ServiceStats) uint64 { return s.Strangers }),
		counter("malformed", "Datagrams that were no requests.", func(s *tracker.ServiceStats) uint64 { return s.Malformed }),
		counter("published", "Descriptors taken by UDP.", func(s *tracker.ServiceStats) uint64 { return s.Published }),
		counter("refused", "Descriptors by UDP that were not taken.", func(s *tracker.ServiceStats) uint64 { return s.Refused }),
		counter("unsent", "Replies that the kernel did not take.", func(s *tracker.ServiceStats) uint64 { return s.Unsent }),
		counter("kernel_drops", "Requests that the kernel had no room for.", func(s *tracker.ServiceStats) uint64 { return s.Dropped }),
		counter("lists", "Requests by HTTP that were answered.", func(s *tracker.ServiceStats) uint64 { return s.Lists }),
		counter("puts", "Descriptors by HTTP, taken or not.", func(s *tracker.ServiceStats) uint64 { return s.Puts }),
		counter("puts_refused", "Descriptors by HTTP that were not taken.", func(s *tracker.ServiceStats) uint64 { return s.PutsBad }),
		counter("limited", "Requests by HTTP of those who asked too often.", func(s *tracker.ServiceStats) uint64 { return s.Limited }),
		counter("busy", "Requests by HTTP for which there was no time.", func(s *tracker.ServiceStats) uint64 { return s.Busy }),
		counter("refused_http", "Connections beyond what one network may have.", func(s *tracker.ServiceStats) uint64 { return s.Crowded }),
		counter("events_lost", "Events that nobody took in time.", func(s *tracker.ServiceStats) uint64 { return s.EventsLost }),
	}}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range c.metrics {
		out <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	s := c.service.Stats()
	for _, m := range c.metrics {
		out <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(&s))
	}
}

// serveMetrics answers on l until ctx is done.
func serveMetrics(ctx context.Context, l net.Listener, s *tracker.Service) error {
	r := prometheus.NewRegistry()
	r.MustRegister(newCollector(s), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
