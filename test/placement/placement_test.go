package placement

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"orrery/scheduler"
	"orrery/test/peers"
)

var (
	seeds = flag.Int("seeds", 20, "random clusters, with some pods to place on each")
	first = flag.Int("seed", 0, "the first of them")
)

// On the same state both schedulers come to the same verdict.
func TestPlacementsAreUpstreams(t *testing.T) {
	peers.Need(t)
	a := newArena(t)
	var seen struct{ placed, scored, refused, preempted int }
	for seed := *first; seed < *first+*seeds; seed++ {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			w := randomWorld(seed)
			a.load(t, w)
			for i, pod := range w.pods {
				order := []peers.Side{peers.Ours, peers.Upstream}
				if i%2 == 1 {
					slices.Reverse(order)
				}
				did := map[peers.Side]outcome{}
				did[order[0]] = a.try(t, order[0], pod)
				a.undo(t, did[order[0]])
				did[order[1]] = a.try(t, order[1], pod)
				a.keep(t, did[order[1]])
				ours, theirs := did[peers.Ours], did[peers.Upstream]
				for _, d := range differences(ours, theirs) {
					t.Errorf("%s: %s", pod.Name, d)
				}
				switch {
				case len(theirs.victims) > 0:
					seen.preempted++
				case theirs.node == "":
					seen.refused++
				default:
					seen.placed++
				}
				if len(theirs.scores) > 1 {
					seen.scored++
				}
			}
			if t.Failed() {
				t.Logf("again with: go test ./test/placement -seed %d -seeds 1", seed)
			}
		})
	}
	t.Logf("%+v", seen)
	if least := *seeds / 3; seen.placed < least || seen.scored < least || seen.refused < least || seen.preempted < least {
		t.Errorf("%+v: the clusters are too alike", seen)
	}
}

// differences are between what two schedulers made of a pod.
func differences(ours, theirs outcome) (out []string) {
	differ := func(what string, ours, theirs any) {
		if a, b := fmt.Sprint(ours), fmt.Sprint(theirs); a != b {
			out = append(out, fmt.Sprintf("%s:\n    ours       %s\n    upstream's %s", what, a, b))
		}
	}
	differ("has a node", ours.node != "", theirs.node != "")
	differ("FailedScheduling", ours.says, theirs.says)
	differ("nominated node", ours.nominee, theirs.nominee)
	differ("victims", slices.Sorted(maps.Keys(ours.victims)), slices.Sorted(maps.Keys(theirs.victims)))
	for name, said := range theirs.victims {
		if _, both := ours.victims[name]; both && ours.node == theirs.node {
			differ("what "+name+" was told", ours.victims[name], said)
		}
	}
	if len(out) > 0 || theirs.nominee != "" || theirs.node == "" {
		return out // a pod that waits for a nominated node looks at no other
	}
	if len(theirs.scores) == 0 { // a single node is not scored
		differ("nodes that pass", slices.Sorted(maps.Keys(ours.scores)), []string{theirs.node})
		return out
	}
	for node := range theirs.scores {
		differ("scores of "+node, ours.scores[node], theirs.scores[node])
	}
	differ("nodes that pass", slices.Sorted(maps.Keys(ours.scores)), slices.Sorted(maps.Keys(theirs.scores)))
	for who, node := range map[string]string{"ours": ours.node, "upstream": theirs.node} {
		for name, s := range ours.scores {
			if s[""] > ours.scores[node][""] {
				out = append(out, fmt.Sprintf("%s chose %s with %d, %s has %d", who, node, ours.scores[node][""], name, s[""]))
			}
		}
	}
	slices.Sort(out)
	return out
}

// weights of plugins' scores where they are not 1.
//
// Upstream: pkg/scheduler/apis/config/v1/default_plugins.go, getDefaultPlugins.
var weights = map[string]int64{"TaintToleration": 3, "NodeAffinity": 2, "PodTopologySpread": 2, "InterPodAffinity": 2}

// working reads the scores from the annotation that our scheduler leaves. A score
// of nought is not told from none.
func working(t *testing.T, p *corev1.Pod) map[string]map[string]int64 {
	t.Helper()
	var w struct {
		Nodes map[string]struct {
			Rejected map[string]string
			Scores   map[string]int64
			Total    int64
		}
	}
	if err := json.Unmarshal([]byte(p.Annotations[scheduler.AnnotationWorking]), &w); err != nil {
		t.Fatalf("the working of %s: %v", p.Name, err)
	}
	out := map[string]map[string]int64{}
	for name, n := range w.Nodes {
		if len(n.Rejected) > 0 {
			continue
		}
		out[name] = map[string]int64{"": n.Total}
		for plugin, score := range n.Scores {
			if score != 0 {
				out[name][plugin] = score * max(1, weights[plugin])
			}
		}
	}
	return out
}

// scored is a line of upstream's log; without a plugin it is about the sum.
//
// Upstream: pkg/scheduler/schedule_one.go, prioritizeNodes.
var scored = regexp.MustCompile(`(?m)^.*(?:"Plugin scored node for pod"|final score for pod").* pod="([^"]+)"(?: plugin="([^"]+)")? node="([^"]+)" score=(-?\d+)`)

// logScores reads the scores from the log that upstream's scheduler writes.
func logScores(log string, p *corev1.Pod) map[string]map[string]int64 {
	out := map[string]map[string]int64{}
	for _, m := range scored.FindAllStringSubmatch(log, -1) {
		score, _ := strconv.ParseInt(m[4], 10, 64)
		if m[1] != p.Namespace+"/"+p.Name || score == 0 && m[2] != "" {
			continue
		}
		if out[m[3]] == nil {
			out[m[3]] = map[string]int64{}
		}
		out[m[3]][m[2]] = score
	}
	return out
}
