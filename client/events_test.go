package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// eventServer takes a while for each write and notes, by pod, the counts that it
// was told, and how many writes it had at a time.
type eventServer struct {
	mu         sync.Mutex
	pods       map[string]string // by name of the event
	counts     map[string][]int32
	busy, most int
}

func (s *eventServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.busy++
	s.most = max(s.most, s.busy)
	s.mu.Unlock()
	time.Sleep(10 * time.Millisecond)
	ev := &corev1.Event{}
	if r.Method == http.MethodPost {
		decodeInto(body, ev)
	} else {
		json.Unmarshal(body, ev)
		ev.Name = path.Base(r.URL.Path)
	}
	s.mu.Lock()
	s.busy--
	if r.Method == http.MethodPost {
		s.pods[ev.Name] = ev.InvolvedObject.Name
	}
	pod := s.pods[ev.Name]
	s.counts[pod] = append(s.counts[pod], ev.Count)
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	ev.TypeMeta = metav1.TypeMeta{Kind: "Event", APIVersion: "v1"}
	json.NewEncoder(w).Encode(ev)
}

// However many are written at a time, the events about one object are counted one
// after the other.
func TestEventsAreWrittenInParallelAndCountedInTurn(t *testing.T) {
	for _, writers := range []int{1, 4} {
		t.Run(fmt.Sprint(writers), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &eventServer{pods: map[string]string{}, counts: map[string][]int32{}}
				c, stop := serve(t, s)
				defer stop()
				ctx, cancel := context.WithCancel(t.Context())
				r := NewRecorder(c, "test", "").Parallel(writers)
				done := make(chan struct{})
				go func() { defer close(done); r.Run(ctx) }()
				for range 3 {
					for i := range 20 {
						name := fmt.Sprint("pod-", i)
						r.Event(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)}}, corev1.EventTypeNormal, "Happened", "it happened")
					}
				}
				time.Sleep(time.Second)
				cancel()
				<-done
				for pod, counts := range s.counts {
					if fmt.Sprint(counts) != "[1 2 3]" {
						t.Errorf("%s was counted %v", pod, counts)
					}
				}
				if len(s.counts) != 20 || s.most != writers {
					t.Errorf("events about %d pods, want 20; %d at a time, want %d", len(s.counts), s.most, writers)
				}
			})
		})
	}
}

// Two events of one moment about one object are two, whoever tells of them.
func TestEventsOfOneMomentHaveNamesOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the clock stands still
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
		names := map[string]bool{}
		for i := range 100 {
			r := NewRecorder(nil, fmt.Sprint(i), "")
			for j := range 10 {
				r.Event(pod, corev1.EventTypeNormal, "Happened", fmt.Sprint(j))
				names[(<-r.writers[0].queue).Name] = true
			}
		}
		if len(names) != 1000 {
			t.Errorf("1000 events have %d names", len(names))
		}
	})
}
