package scheduler

import (
	"context"
	"encoding/json"
	"log/slog"

	corev1 "k8s.io/api/core/v1"

	"orrery/client"
)

// A pod with AnnotationExplain: "true" gets AnnotationWorking: for each node
// what every filter said and every score, as JSON, so that a student can check
// the choice by hand. Upstream has this only in its logs at high verbosity.
const (
	AnnotationExplain = "orrery.dev/explain"
	AnnotationWorking = "orrery.dev/scheduling-working"
)

// working is the content of AnnotationWorking.
type working struct {
	// Chosen is the node that the pod got, if any.
	Chosen string                  `json:"chosen,omitempty"`
	Nodes  map[string]*nodeWorking `json:"nodes"`
}

type nodeWorking struct {
	// Rejected holds the verdicts against the node by plugin.
	Rejected map[string]string `json:"rejected,omitempty"`
	// Scores are the normalized scores by plugin, before weights; Total the
	// weighted sum.
	Scores map[string]int64 `json:"scores,omitempty"`
	Total  int64            `json:"total"`
}

func (s *Scheduler) explains(pod *corev1.Pod) bool {
	return s.cfg.Explain || pod.Annotations[AnnotationExplain] == "true"
}

// work asks every filter about every node, and every scorer about those that
// pass: more than choosing needs, on a cycle of its own.
func (s *Scheduler) work(c *Cycle) *working {
	w := &working{Nodes: map[string]*nodeWorking{}}
	trial := newCycle(c.Pod, c.Snapshot)
	whole := s.framework.preFilter(trial)
	var feasible []*NodeInfo
	for _, n := range c.Snapshot.Nodes {
		nw := &nodeWorking{Rejected: map[string]string{}, Scores: map[string]int64{}}
		w.Nodes[n.Name()] = nw
		if !whole.OK() {
			nw.Rejected[whole.Plugin] = whole.Message()
			continue
		}
		for _, f := range trial.filters {
			if st := f.Filter(trial, n); !st.OK() {
				nw.Rejected[f.Name()] = st.Message()
			}
		}
		if len(nw.Rejected) == 0 {
			feasible = append(feasible, n)
		}
	}
	if len(feasible) == 0 {
		return w
	}
	s.framework.score(trial, feasible, func(plugin string, weight int64, scores []NodeScore) {
		for _, sc := range scores {
			nw := w.Nodes[sc.Node.Name()]
			nw.Scores[plugin] = sc.Score
			nw.Total += weight * sc.Score
		}
	})
	return w
}

// explain writes the working to the pod.
func (s *Scheduler) explain(ctx context.Context, pod *corev1.Pod, w *working, chosen string) {
	w.Chosen = chosen
	text, err := json.Marshal(w)
	if err != nil {
		slog.Warn("could not explain", "component", "scheduler", "pod", client.Key(pod), "err", err)
		return
	}
	// Through the status, which is all of a pod that a scheduler may write.
	s.patch(ctx, pod, map[string]any{"metadata": map[string]any{"annotations": map[string]string{AnnotationWorking: string(text)}}}, "status")
}
