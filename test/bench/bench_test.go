package bench

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"orrery/test/peers"
)

var (
	rounds = flag.Int("rounds", 0, "how often each side is measured; 0 skips the comparison")
	pods   = flag.Int("pods", 5000, "how many pods there are to list")
	keep   = flag.String("profiles", "", "directory for processor profiles of the creates and heap profiles after them")
	only   = flag.String("only", "", "measure one side alone: ours or upstream")
)

// metric is a row of the table.
type metric struct {
	name, unit string
	// more is better; otherwise less is.
	more bool
	// target is ours/upstream that the project has set itself; 0 is none.
	target float64
	limit  string
}

var metrics = []metric{
	{"ready after exec", "ms", false, 0, "etcd's first election and one fsync each for the objects of a fresh cluster"},
	{"RSS idle", "MiB", false, 0.25, "Go's types, tables and the program's own pages"},
	{"create p50, 1 client", "ms", false, 0, "one fsync of etcd's log"},
	{"creates/s, 16 clients", "1/s", true, 2, "processor: decoding, managed fields, TLS; syncs are shared"},
	{"processor for a create", "µs", false, 0, "the same; both servers with their etcd, without the client"},
	{"GETs/s, 16 clients", "1/s", true, 0, "HTTP/2 and the client"},
	{"LIST as JSON", "ms", false, 0.25, "copying the cached encodings through TLS, and the client"},
	{"LIST as protobuf", "ms", false, 0.25, "the same, of fewer bytes"},
	{"RSS per 1000 pods, listed", "MiB", false, 0, "the pods' encodings in both forms, and half the heap again between collections"},
	{"RSS per 1000 pods, quiet", "MiB", false, 0.25, "etcd's pages of the values; objects, of which pods of one owner share the most"},
	{"watch p99, 50 watchers", "ms", false, 0.25, "the write itself, and garbage collection"},
	{"watch p99, 1000 watchers", "ms", false, 0.25, "1000 times the next two rows, on processors that server and client share"},
	{"processor for a watch event", "µs", false, 0, "net/http: an HTTP/2 frame is handed from one goroutine to another three times; both have that"},
	{"client's part of it", "µs", false, 0, "TLS and frames, read without a library"},
}

func TestBesideUpstream(t *testing.T) {
	if *rounds == 0 {
		t.Skip("a measurement, not a test: run `make bench-apiserver`")
	}
	sides := []peers.Side{peers.Ours, peers.Upstream}
	if *only != "" {
		sides = []peers.Side{peers.Side(*only)}
	}
	if slices.Contains(sides, peers.Upstream) {
		peers.Need(t)
	}
	samples := map[peers.Side]map[string][]float64{peers.Ours: {}, peers.Upstream: {}}
	for round := range *rounds {
		for _, side := range sides {
			t.Run(fmt.Sprintf("round %d, %s", round+1, side), func(t *testing.T) {
				for name, v := range measure(t, side) {
					samples[side][name] = append(samples[side][name], v)
				}
			})
		}
		slices.Reverse(sides)
	}
	t.Log("\n" + table(samples))
}

const (
	// warm is how many pods there are before memory is compared: the first requests bring in code and tables.
	warm = 200
	// quietFor is how long nobody asks for anything before memory is looked at again.
	quietFor = 70 * time.Second
)

// measure is one round of one side, in a cluster of its own.
func measure(t *testing.T, side peers.Side) map[string]float64 {
	out := map[string]float64{}
	c := peers.New(t)
	server := c.StartAPIServer(side)
	out["ready after exec"] = float64(server.ReadyAfter) / float64(time.Millisecond)
	wait(3 * time.Second)
	out["RSS idle"] = mebibytes(t, server)

	l := newLoad(t, c)
	l.prepare()
	out["create p50, 1 client"] = median(l.creates(1, warm).each)
	l.gets(16, warm)
	l.lists(asJSON, 1)
	l.lists(asProtobuf, 1)
	before := mebibytes(t, server)
	perThousand := func() float64 { return (mebibytes(t, server) - before) * 1000 / float64(*pods-warm) }
	profiled, busy := l.profile(side+"-create.cpu", "profile?seconds=8"), processor(t, server)
	out["creates/s, 16 clients"] = l.creates(16, *pods-warm).perSecond()
	out["processor for a create"] = (processor(t, server) - busy) / float64(*pods-warm)
	profiled()
	out["GETs/s, 16 clients"] = l.gets(16, 5000).perSecond()
	out["LIST as JSON"] = median(l.lists(asJSON, 7))
	out["LIST as protobuf"] = median(l.lists(asProtobuf, 7))
	out["RSS per 1000 pods, listed"] = perThousand()
	l.profile(side+".heap", "heap")()
	wait(quietFor)
	l.collect()
	out["RSS per 1000 pods, quiet"] = perThousand()
	l.profile(side+"-quiet.heap", "heap")()
	server.Stop()
	watches(t, side, out)
	return out
}

// watches measures the fan-out, in another cluster whose etcd syncs to memory: a
// disk's slowest writes, the same for both sides, would be all that a p99 shows.
func watches(t *testing.T, side peers.Side, out map[string]float64) {
	c := peers.NewInMemory(t)
	server := c.StartAPIServer(side)
	l := newLoad(t, c)
	l.prepare()
	l.creates(16, warm)
	l.fanOut(server, 50, 50)

	out["watch p99, 50 watchers"] = percentile(l.fanOut(server, 50, 200).took, 0.99)
	profiled := l.profile(side+"-watch.cpu", "profile?seconds=15")
	fan := l.fanOut(server, 1000, 100)
	profiled()
	out["watch p99, 1000 watchers"] = percentile(fan.took, 0.99)
	out["processor for a watch event"] = fan.server / float64(len(fan.took))
	out["client's part of it"] = fan.client / float64(len(fan.took))
	server.Stop()
}

func wait(d time.Duration) {
	timer := time.NewTimer(d)
	<-timer.C
}

// processor is what a part has used, in microseconds.
func processor(t *testing.T, p *peers.Part) float64 {
	t.Helper()
	d, err := p.Processor()
	if err != nil {
		t.Fatal(err)
	}
	return float64(d) / float64(time.Microsecond)
}

func mebibytes(t *testing.T, p *peers.Part) float64 {
	t.Helper()
	n, err := p.Memory()
	if err != nil {
		t.Fatal(err)
	}
	return float64(n) / (1 << 20)
}

func median(v []float64) float64 { return percentile(v, 0.5) }

func percentile(v []float64, p float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return v[min(len(v)-1, int(p*float64(len(v))))]
}

// table has a line for each metric: medians, ours/upstream, the target, what limits ours.
func table(samples map[peers.Side]map[string][]float64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-28s %10s %10s      %8s %8s  %s\n", "", "ours", "upstream", "ratio", "target", "what limits ours")
	for _, m := range metrics {
		ours, theirs := median(samples[peers.Ours][m.name]), median(samples[peers.Upstream][m.name])
		ratio, target := "-", "-"
		if theirs > 0 {
			ratio = fmt.Sprintf("%.2f", ours/theirs)
		}
		if m.target > 0 {
			sign := "<="
			if m.more {
				sign = ">="
			}
			target = fmt.Sprintf("%s %.2f", sign, m.target)
		}
		fmt.Fprintf(&b, "%-28s %10.1f %10.1f %-4s %8s %8s  %s\n", m.name, ours, theirs, m.unit, ratio, target, m.limit)
	}
	return b.String()
}
