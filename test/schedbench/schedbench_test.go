package schedbench

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	toolswatch "k8s.io/client-go/tools/watch"

	"orrery/test/peers"
)

var (
	sizes  = flag.String("nodes", "", "numbers of nodes, with commas; none skips the benchmark")
	rounds = flag.Int("rounds", 3, "runs of each; the median counts")
	count  = flag.Int("pods", 2000, "pods to place")
	only   = flag.String("only", "", "the template, if not all")
	sides  = flag.String("sides", "ours,upstream,whole", "of those compared, the ones to run")
)

// side is a scheduler and the API server that it works with.
type side struct {
	name                 string
	apiServer, scheduler peers.Side
}

// compared are the sides. What both schedulers do on one API server is the schedulers'
// difference, as far as its share of the processors lets it be seen; what each does
// on its own is the difference that a user meets.
var compared = []side{
	{"ours", peers.Ours, peers.Ours},
	{"upstream", peers.Ours, peers.Upstream},
	{"whole", peers.Upstream, peers.Upstream},
}

// template says what pods look like.
//
// Upstream: test/integration/scheduler_perf, config/performance-config.yaml.
type template struct {
	name string
	// there are the pods that are on nodes before; as many as nodes.
	there func(*corev1.Pod)
	// pods are those to place.
	pods func(*corev1.Pod)
	// stuck are pods that fit nowhere, beside those to place.
	stuck bool
	// most are the pods to place for each node, where more would find no room.
	most int
}

var templates = []template{
	{name: "basic"},
	{name: "topology spread", pods: func(p *corev1.Pod) {
		p.Labels = map[string]string{"color": "blue"}
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 5, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule,
			LabelSelector: &metav1.LabelSelector{MatchLabels: p.Labels}}}
	}},
	{name: "affinity", there: blue, pods: func(p *corev1.Pod) {
		blue(p)
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term(corev1.LabelTopologyZone)}}}
	}},
	{name: "anti-affinity", pods: func(p *corev1.Pod) {
		p.Labels = map[string]string{"color": "blue", "group": p.Name[strings.LastIndexByte(p.Name, '-')+1:]}
		g, _ := strconv.Atoi(p.Labels["group"])
		p.Labels["group"] = fmt.Sprint(g / 50) // fifty of a group, each on a node of its own
		t := term(corev1.LabelHostname)
		t.LabelSelector.MatchLabels = map[string]string{"group": p.Labels["group"]}
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{t}}}
	}},
	{name: "preemption", most: 2, there: func(p *corev1.Pod) { ask(p, "3500m") }, pods: func(p *corev1.Pod) {
		p.Spec.PriorityClassName = "system-cluster-critical"
		ask(p, "1")
	}},
	{name: "unschedulable", stuck: true},
}

func blue(p *corev1.Pod) { p.Labels = map[string]string{"color": "blue"} }

func term(key string) corev1.PodAffinityTerm {
	return corev1.PodAffinityTerm{TopologyKey: key, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"color": "blue"}}}
}

func ask(p *corev1.Pod, cpu string) {
	p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse(cpu)
}

func TestSchedulersSideBySide(t *testing.T) {
	if *sizes == "" {
		t.Skip("takes minutes: make bench-scheduler")
	}
	var run []side
	for _, one := range compared {
		if slices.Contains(strings.Split(*sides, ","), one.name) {
			run = append(run, one)
		}
	}
	if len(run) != 1 || run[0] != compared[0] {
		peers.Need(t)
	}
	var table strings.Builder
	fmt.Fprintf(&table, "\n%-16s %6s | %-35s | %-35s | %s\n%-16s %6s", "", "", "pods/s, and ours to it", "scheduler's CPU, ms/pod", "API server's CPU, ms/pod", "template", "nodes")
	fmt.Fprintf(&table, " | %6s %13s %14s | %6s %13s %14s | %6s %13s %14s\n", "ours", "its scheduler", "upstream", "ours", "its scheduler", "upstream", "ours", "its scheduler", "upstream")
	for _, size := range strings.Split(*sizes, ",") {
		nodes, err := strconv.Atoi(size)
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range templates {
			if *only != "" && *only != tt.name {
				continue
			}
			t.Run(fmt.Sprintf("%s/%d", tt.name, nodes), func(t *testing.T) {
				all := map[string][]result{}
				for range *rounds { // in turns, so that a busy minute of the machine meets all
					for _, one := range run {
						t.Run(one.name, func(t *testing.T) { all[one.name] = append(all[one.name], measure(t, one, tt, nodes)) })
					}
				}
				ours, theirs, whole := median(all["ours"]), median(all["upstream"]), median(all["whole"])
				line := fmt.Sprintf("%-16s %6d | %6.0f %7.0f (%3.1f) %8.0f (%3.1f) | %6.2f %13.2f %14.2f | %6.2f %13.2f %14.2f\n", tt.name, nodes,
					ours.rate, theirs.rate, ours.rate/theirs.rate, whole.rate, ours.rate/whole.rate,
					ours.scheduler, theirs.scheduler, whole.scheduler, ours.apiServer, theirs.apiServer, whole.apiServer)
				t.Log(line)
				table.WriteString(line)
			})
		}
	}
	t.Log(table.String())
}

// result is what one run showed: pods a second from the first write to the last binding,
// and the processor time of the scheduler and of the API server for each pod in
// milliseconds, until the last event was written.
type result struct{ rate, scheduler, apiServer float64 }

// median takes each figure by itself.
func median(all []result) (m result) {
	if len(all) == 0 {
		return m
	}
	middle := func(of func(result) float64) float64 {
		slices.SortFunc(all, func(a, b result) int { return cmp.Compare(of(a), of(b)) })
		return of(all[len(all)/2])
	}
	m.rate = middle(func(r result) float64 { return r.rate })
	m.scheduler = middle(func(r result) float64 { return r.scheduler })
	m.apiServer = middle(func(r result) float64 { return r.apiServer })
	return m
}

// bench is one cluster.
type bench struct {
	*kubernetes.Clientset
	t   *testing.T
	ctx context.Context
}

// each does n things, some at a time.
func (b *bench) each(n int, f func(i int) error) {
	b.t.Helper()
	var wg sync.WaitGroup
	next := make(chan int)
	failed := make(chan error, 16)
	for range 16 {
		wg.Go(func() {
			for i := range next {
				if err := f(i); err != nil {
					select {
					case failed <- err:
					default:
					}
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	select {
	case err := <-failed:
		b.t.Fatal(err)
	default:
	}
}

func (b *bench) node(i int) error {
	has := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("32Gi"), corev1.ResourcePods: resource.MustParse("110")}
	name := fmt.Sprintf("node-%d", i)
	n, err := b.CoreV1().Nodes().Create(b.ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, corev1.LabelTopologyZone: fmt.Sprint("zone", i%3)}},
		Status:     corev1.NodeStatus{Capacity: has, Allocatable: has, Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	n.Spec.Taints = nil // a new node is not ready until a controller says so; there is none
	_, err = b.CoreV1().Nodes().Update(b.ctx, n, metav1.UpdateOptions{})
	return err
}

func (b *bench) pod(ns, name, node string, change func(*corev1.Pod)) error {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{NodeName: node, AutomountServiceAccountToken: new(false), TerminationGracePeriodSeconds: new(int64(0)),
		Containers: []corev1.Container{{Name: "c", Image: "registry.k8s.io/pause:3.10", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("500Mi")}}}}}}
	if change != nil {
		change(p)
	}
	_, err := b.CoreV1().Pods(ns).Create(b.ctx, p, metav1.CreateOptions{})
	return err
}

const ns = metav1.NamespaceSystem // where critical pods may be

// measure is one run.
func measure(t *testing.T, who side, tt template, nodes int) result {
	c := peers.New(t)
	apiServer := c.StartAPIServer(who.apiServer)
	config := c.Config("admin", "system:masters")
	config.ContentType = "application/vnd.kubernetes.protobuf" // the benchmark itself shall take little time
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{Clientset: client, t: t, ctx: t.Context()}
	c.Wait("service account", func(ctx context.Context) error {
		_, _ = b.CoreV1().ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
		_, err := b.CoreV1().ServiceAccounts(ns).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	count := *count
	if tt.most > 0 {
		count = min(count, tt.most*nodes)
	}
	b.each(nodes, b.node)
	if tt.there != nil {
		b.each(nodes, func(i int) error { return b.pod(ns, fmt.Sprintf("there-%d", i), fmt.Sprintf("node-%d", i), tt.there) })
	}
	if tt.stuck {
		b.each(count/5, func(i int) error {
			return b.pod(ns, fmt.Sprintf("stuck-%d", i), "", func(p *corev1.Pod) { ask(p, "50") })
		})
	}
	b.each(count, func(i int) error { return b.pod(ns, fmt.Sprintf("pod-%d", i), "", tt.pods) })

	ctx, cancel := context.WithTimeout(b.ctx, 5*time.Minute)
	defer cancel()
	now, err := b.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	// Upstream's server ends a watch that does not keep up with it.
	changes, err := toolswatch.NewRetryWatcherWithContext(ctx, now.ResourceVersion, &cache.ListWatch{WatchFuncWithContext: b.CoreV1().Pods(ns).Watch})
	if err != nil {
		t.Fatal(err)
	}
	defer changes.Stop()
	var extra []string
	if who.scheduler == peers.Upstream {
		extra = []string{"--kube-api-qps=100000", "--kube-api-burst=100000"}
	}
	idle := processor(t, apiServer)
	scheduler := c.StartScheduler(who.scheduler, append(extra, "--leader-elect=false")...)
	defer scheduler.Stop()
	r := result{rate: b.placed(changes, count)}
	changes.Stop()
	b.told(ctx, count)
	r.scheduler, r.apiServer = processor(t, scheduler)/float64(count), (processor(t, apiServer)-idle)/float64(count)
	t.Logf("%s: %.0f pods/s, %.2f ms of the scheduler, %.2f ms of the API server for a pod", who.name, r.rate, r.scheduler, r.apiServer)
	return r
}

// processor is what a process has taken, in milliseconds.
func processor(t *testing.T, p *peers.Part) float64 {
	d, err := p.Processor()
	if err != nil {
		t.Fatal(err)
	}
	return d.Seconds() * 1000
}

// placed waits until all pods to place have nodes, and returns how many got one in
// a second. The clock begins with the scheduler's first word on any pod.
func (b *bench) placed(changes watch.Interface, count int) float64 {
	placed := map[string]bool{}
	var first time.Time
	for ev := range changes.ResultChan() {
		p, ok := ev.Object.(*corev1.Pod)
		if !ok {
			continue
		}
		if first.IsZero() {
			first = time.Now()
		}
		if strings.HasPrefix(p.Name, "pod-") && p.Spec.NodeName != "" {
			placed[p.Name] = true
		}
		if len(placed) == count {
			return float64(count-1) / time.Since(first).Seconds()
		}
	}
	b.t.Fatalf("%d of %d pods were placed", len(placed), count)
	return 0
}

// told waits until the event of each binding is there: both schedulers write them
// beside their work, and what they put off counts.
func (b *bench) told(ctx context.Context, count int) {
	tick := time.NewTicker(500 * time.Millisecond) // each list costs the API server some
	defer tick.Stop()
	for {
		events, err := b.CoreV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "reason=Scheduled", ResourceVersion: "0"})
		if err != nil {
			b.t.Fatal(err)
		}
		if len(events.Items) >= count {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			b.t.Fatalf("%d events tell of %d bindings", len(events.Items), count)
		}
	}
}
