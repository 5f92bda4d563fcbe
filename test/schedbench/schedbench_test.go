package schedbench

import (
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
	"k8s.io/client-go/kubernetes"

	"orrery/test/peers"
)

var (
	sizes  = flag.String("nodes", "", "numbers of nodes, with commas; none skips the benchmark")
	rounds = flag.Int("rounds", 3, "runs of each; the median counts")
	count  = flag.Int("pods", 500, "pods to place")
	only   = flag.String("only", "", "the template, if not all")
	sides  = flag.String("sides", "ours,upstream", "whose scheduler")
)

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
	peers.Need(t)
	var table strings.Builder
	fmt.Fprintf(&table, "\n%-16s %6s %14s %14s %6s\n", "template", "nodes", "ours pods/s", "theirs pods/s", "ratio")
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
				rates := map[peers.Side]float64{}
				for _, side := range []peers.Side{peers.Ours, peers.Upstream} {
					if !strings.Contains(*sides, string(side)) {
						continue
					}
					var all []float64
					for range *rounds {
						t.Run(string(side), func(t *testing.T) { all = append(all, measure(t, side, tt, nodes)) })
					}
					slices.Sort(all)
					rates[side] = all[len(all)/2]
				}
				line := fmt.Sprintf("%-16s %6d %14.0f %14.0f %6.1f\n", tt.name, nodes, rates[peers.Ours], rates[peers.Upstream], rates[peers.Ours]/rates[peers.Upstream])
				t.Log(line)
				table.WriteString(line)
			})
		}
	}
	t.Log(table.String())
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

// measure is one run: pods a second.
func measure(t *testing.T, side peers.Side, tt template, nodes int) float64 {
	c := peers.New(t)
	c.StartAPIServer(peers.Ours)
	b := &bench{Clientset: c.Admin(), t: t, ctx: t.Context()}
	const ns = "kube-system" // where critical pods may be
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

	ctx, cancel := context.WithTimeout(b.ctx, 3*time.Minute)
	defer cancel()
	watch, err := b.CoreV1().Pods(ns).Watch(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName!="})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	var extra []string
	if side == peers.Upstream {
		extra = []string{"--kube-api-qps=100000", "--kube-api-burst=100000"}
	}
	part := c.StartScheduler(side, append(extra, "--leader-elect=false")...)
	defer part.Stop()
	placed := map[string]bool{}
	var first time.Time
	for ev := range watch.ResultChan() {
		p, ok := ev.Object.(*corev1.Pod)
		if !ok || !strings.HasPrefix(p.Name, "pod-") || placed[p.Name] {
			continue
		}
		if len(placed) == 0 {
			first = time.Now()
		}
		placed[p.Name] = true
		if len(placed) == count {
			return float64(count-1) / time.Since(first).Seconds()
		}
	}
	t.Fatalf("%d of %d pods were placed", len(placed), count)
	return 0
}
