package controllers

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestANodeIsUnknownAfterTheGracePeriodSinceItsLastSign(t *testing.T) {
	const grace, startup = 50 * time.Second, 60 * time.Second
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", CreationTimestamp: metav1.NewTime(t0)}}
	at := func(s int) time.Time { return t0.Add(time.Duration(s) * time.Second) }
	lease := func(s int) *coordinationv1.Lease {
		// The node's clock is an hour fast: only changes count.
		return &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: at(s).Add(time.Hour)}}}
	}
	h, c := judge(nil, node, nil, at(59), grace, startup)
	if c != nil {
		t.Error("a new node has 60 s")
	}
	if _, c = judge(h, node, nil, at(60), grace, startup); len(c) != 4 || c[0].Reason != "NodeStatusNeverUpdated" || c[0].Message != "Kubelet never posted node status." {
		t.Errorf("%+v", c)
	}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.NewTime(t0), LastTransitionTime: metav1.NewTime(t0)}}
	h, _ = judge(nil, node, lease(95), at(100), grace, startup)
	h, c = judge(h, node, lease(105), at(110), grace, startup)
	if c != nil {
		t.Error("a renewed lease is a sign")
	}
	if _, c = judge(h, node, lease(105), at(159), grace, startup); c != nil {
		t.Error("49 s are not 50")
	}
	_, c = judge(h, node, lease(105), at(160), grace, startup)
	if len(c) != 4 || c[0].Status != corev1.ConditionUnknown || c[0].Reason != "NodeStatusUnknown" || c[0].Message != "Kubelet stopped posting node status." {
		t.Errorf("%+v", c)
	}
	node.Status.Conditions = c
	if _, again := judge(h, node, lease(105), at(170), grace, startup); again != nil {
		t.Error("said twice")
	}
}

func TestNoScheduleTaintsFollowTheConditions(t *testing.T) {
	node := func(ready corev1.ConditionStatus, unschedulable bool, taints ...string) *corev1.Node {
		n := &corev1.Node{}
		n.Spec.Unschedulable = unschedulable
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
		for _, k := range taints {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: k, Effect: corev1.TaintEffectNoSchedule})
		}
		return n
	}
	keys := func(ts []corev1.Taint) (out []string) {
		for _, t := range ts {
			out = append(out, strings.TrimPrefix(t.Key, "node.kubernetes.io/"))
		}
		return out
	}
	for _, c := range []struct {
		node        *corev1.Node
		add, remove string
	}{
		{node("True", false), "[]", "[]"},
		{node("True", false, corev1.TaintNodeUnreachable, "mine"), "[]", "[unreachable]"},
		{node("Unknown", false), "[unreachable]", "[]"},
		{node("False", false, corev1.TaintNodeUnreachable), "[not-ready]", "[unreachable]"},
		{node("True", true), "[unschedulable]", "[]"},
		{node("False", true, corev1.TaintNodeUnschedulable, corev1.TaintNodeNotReady), "[]", "[]"},
	} {
		add, remove := noScheduleChange(c.node)
		if fmt.Sprint(keys(add)) != c.add || fmt.Sprint(keys(remove)) != c.remove {
			t.Errorf("%v: add %v remove %v", c.node.Spec, keys(add), keys(remove))
		}
	}
}

func TestZones(t *testing.T) {
	nodes := func(up, down int) []bool {
		return append(slices.Repeat([]bool{true}, up), slices.Repeat([]bool{false}, down)...)
	}
	for _, c := range []struct {
		up, down int
		want     zoneState
	}{
		{3, 0, zoneNormal}, {1, 2, zoneNormal}, {1, 3, zonePartial}, {3, 3, zoneNormal}, {0, 1, zoneFull}, {40, 60, zonePartial}, {0, 0, zoneNormal},
	} {
		if got := stateOfZone(nodes(c.up, c.down), 0.55); got != c.want {
			t.Errorf("%d up, %d down: %s, want %s", c.up, c.down, got, c.want)
		}
	}
	cfg := DefaultConfig()
	for _, c := range []struct {
		state zoneState
		size  int
		want  float64
	}{{zoneNormal, 3, 0.1}, {zoneFull, 3, 0.1}, {zonePartial, 50, 0}, {zonePartial, 51, 0.01}} {
		if got := cfg.rateOf(c.state, c.size); got != c.want {
			t.Errorf("%s of %d: %v", c.state, c.size, got)
		}
	}
	m := func(states ...zoneState) map[string]zoneState {
		out := map[string]zoneState{}
		for i, s := range states {
			out[fmt.Sprint(i)] = s
		}
		return out
	}
	for _, c := range []struct {
		before, after map[string]zoneState
		want          disruption
	}{
		{m(zoneNormal, zoneNormal), m(zoneNormal, zoneFull), perZone},
		{m(zoneNormal, zoneFull), m(zoneFull, zoneFull), enterMaster},
		{m(zoneFull, zoneFull), m(zoneFull, zoneFull), stayMaster},
		{m(zoneFull, zoneFull), m(zoneFull, zoneNormal), leaveMaster},
	} {
		if got := decideDisruption(c.before, c.after); got != c.want {
			t.Errorf("%v -> %v: %d, want %d", c.before, c.after, got, c.want)
		}
	}
}

func TestAZoneTaintsOneNodeEachTenSeconds(t *testing.T) {
	z := newZone(0.1)
	for _, n := range []string{"a", "b", "c", "a"} {
		z.add(n)
	}
	var got []string
	for s := range 60 {
		if n, ok := z.take(t0.Add(time.Duration(s) * time.Second)); ok {
			got = append(got, fmt.Sprintf("%s@%d", n, s))
		}
		if s == 12 {
			z.setRate(0, t0.Add(12*time.Second))
		}
		if s == 30 {
			z.setRate(0.1, t0.Add(30*time.Second)) // an empty bucket stays empty
		}
	}
	if fmt.Sprint(got) != "[a@0 b@10 c@40]" {
		t.Error(got)
	}
}

func TestHowLongAPodBearsItsTaints(t *testing.T) {
	unreachable := []corev1.Taint{{Key: "u", Effect: corev1.TaintEffectNoExecute}}
	both := append(unreachable, corev1.Taint{Key: "v", Effect: corev1.TaintEffectNoExecute})
	tol := func(key string, s ...int64) corev1.Toleration {
		out := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}
		if len(s) > 0 {
			out.TolerationSeconds = &s[0]
		}
		return out
	}
	for _, c := range []struct {
		why         string
		taints      []corev1.Taint
		tolerations []corev1.Toleration
		plan        *eviction
		want        string
	}{
		{"no taint", nil, nil, &eviction{due: t0}, "stays"},
		{"not tolerated", unreachable, nil, nil, "0s"},
		{"for a time", unreachable, []corev1.Toleration{tol("u", 300)}, nil, "5m0s"},
		{"for ever", unreachable, []corev1.Toleration{tol("u")}, nil, "stays"},
		{"the least of two", both, []corev1.Toleration{tol("u", 300), tol("v", 20)}, nil, "20s"},
		{"one of two not", both, []corev1.Toleration{tol("u", 300)}, nil, "0s"},
		{"a negative time is none", unreachable, []corev1.Toleration{tol("u", -5)}, nil, "0s"},
		{"a plan stands", unreachable, []corev1.Toleration{tol("u", 300)}, &eviction{due: t0.Add(time.Minute)}, "1m0s"},
	} {
		got := "stays"
		if e := nextEviction(c.plan, c.taints, c.tolerations, t0); e != nil {
			got = e.due.Sub(t0).String()
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.why, got, c.want)
		}
	}
}

func TestNodeCIDRsAreGivenRoundRobin(t *testing.T) {
	s, err := newCIDRSet(netip.MustParsePrefix("10.244.0.0/22"), 24)
	if err != nil {
		t.Fatal(err)
	}
	s.occupy(netip.MustParsePrefix("10.244.1.0/24"))
	var got []string
	for range 4 {
		p, err := s.next()
		if err != nil {
			got = append(got, "full")
			continue
		}
		got = append(got, p.String())
	}
	s.release(netip.MustParsePrefix("10.244.0.0/24"))
	p, _ := s.next()
	got = append(got, p.String())
	if fmt.Sprint(got) != "[10.244.0.0/24 10.244.2.0/24 10.244.3.0/24 full 10.244.0.0/24]" {
		t.Error(got)
	}
}

func TestGarbage(t *testing.T) {
	for _, c := range []struct {
		owners     []ownerState
		dependents int
		want       verdict
	}{
		{nil, 0, stay}, {[]ownerState{solid}, 3, stay}, {[]ownerState{absent}, 3, goNow}, {[]ownerState{solid, absent}, 0, dropRefs},
		{[]ownerState{waiting}, 0, goNow}, {[]ownerState{waiting}, 2, goInFront}, {[]ownerState{absent, waiting}, 2, goInFront},
	} {
		if got := decideGarbage(c.owners, c.dependents); got != c.want {
			t.Errorf("%v with %d dependents: %d, want %d", c.owners, c.dependents, got, c.want)
		}
	}
}

func TestEndpointsStayInTheirSlices(t *testing.T) {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}}
	svc.Spec.Ports = []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}
	group := func(first, last int) []*endpointGroup {
		var pods []*corev1.Pod
		for i := first; i < last; i++ {
			p := pod(fmt.Sprintf("p%03d", i), "n")
			p.Status.PodIP = fmt.Sprintf("10.0.%d.%d", i/250, i%250+1)
			pods = append(pods, p)
		}
		return groupEndpoints(svc, pods, discoveryv1.AddressTypeIPv4, func(string) string { return "z" })
	}
	labels := sliceLabels(svc)
	pack := func(have []*discoveryv1.EndpointSlice, g []*endpointGroup) slicePlan {
		return packSlices(have, g, func() *discoveryv1.EndpointSlice { return newSlice(svc, discoveryv1.AddressTypeIPv4) }, labels)
	}
	sizes := func(p slicePlan) string {
		count := func(ss []*discoveryv1.EndpointSlice) (out []int) {
			for _, s := range ss {
				out = append(out, len(s.Endpoints))
			}
			return out
		}
		return fmt.Sprint(count(p.create), count(p.update), len(p.remove))
	}
	first := pack(nil, nil)
	if got := sizes(first); got != "[0] [] 0" {
		t.Errorf("a Service without pods has one empty slice: %s", got)
	}
	first.create[0].Name = "web-0"
	if got := sizes(pack(first.create, nil)); got != "[] [] 0" {
		t.Errorf("which stays: %s", got)
	}
	full := pack(first.create, group(0, 250))
	if got := sizes(full); got != "[100 50] [100] 0" {
		t.Errorf("and is used: %s", got)
	}
	have := append(full.update, full.create...)
	for i, s := range have {
		s.Name = fmt.Sprintf("web-%d", i)
	}
	if got := sizes(pack(have, group(0, 250))); got != "[] [] 0" {
		t.Errorf("nothing changed: %s", got)
	}
	if got := sizes(pack(have, group(0, 251))); got != "[] [51] 0" {
		t.Errorf("one more: %s", got)
	}
	if got := sizes(pack(have, group(100, 250))); got != "[] [] 1" {
		t.Errorf("a slice that is empty goes: %s", got)
	}
	if got := sizes(pack(have, nil)); got != "[] [0] 2" {
		t.Errorf("the last one stays: %s", got)
	}
	ep := group(0, 1)[0].endpoints[0]
	if !*ep.Conditions.Ready || *ep.Conditions.Terminating || *ep.Zone != "z" || *ep.NodeName != "n" || ep.TargetRef.Name != "p000" {
		t.Errorf("%+v", ep)
	}
}

func TestControllersAreSelectedAsKubeadmDoes(t *testing.T) {
	names := func(words ...string) map[string]bool {
		c := Config{Controllers: words}
		ds, err := c.selected()
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]bool{}
		for _, d := range ds {
			out[d.name] = true
		}
		return out
	}
	if n := names("*", "bootstrapsigner", "tokencleaner"); !n["bootstrap-signer-controller"] || !n["token-cleaner-controller"] || !n["deployment-controller"] {
		t.Error(n)
	}
	if n := names("*"); n["bootstrap-signer-controller"] {
		t.Error("the bootstrap signer is off by default")
	}
	if n := names("*", "-node-lifecycle-controller"); n["node-lifecycle-controller"] {
		t.Error("-name")
	}
	if n := names("deployment-controller"); len(n) != 1 {
		t.Error(n)
	}
	c := Config{Controllers: []string{"nonsense"}}
	if _, err := c.selected(); err == nil || err.Error() != `"nonsense" is not in the list of known controllers` {
		t.Error(err)
	}
}
