package kubelet

import (
	"errors"
	"fmt"
	"sync"
	"time"

	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"orrery/client/timing"
)

// runtimeState is what is known of the container runtime's health: what makes a
// node Ready or not.
//
// Upstream: pkg/kubelet/runtime.go, runtimeState.
type runtimeState struct {
	downGrace, relistGrace time.Duration // for how long the runtime, and the relist, may be silent

	mu            sync.Mutex
	name, version string
	lastUp        time.Time // of the latest answer that said ready
	runtime       error     // what the runtime says about itself
	network       error
	lastRelist    time.Time
}

func newRuntimeState(timeScale float64) *runtimeState {
	s := &runtimeState{network: errors.New("container runtime network not ready: network state unknown"),
		downGrace: timing.RuntimeDownGrace, relistGrace: timing.PLEGHealthy}
	timing.Scale(timeScale, &s.downGrace, &s.relistGrace)
	return s
}

func (s *runtimeState) setVersion(name, version string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.name, s.version = name, version
}

func (s *runtimeState) runtimeName() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.name
}

// id is a container's id as the API shows it.
func (s *runtimeState) id(c *container) string { return s.runtimeName() + "://" + c.id }

// full is the runtime as nodeInfo names it.
func (s *runtimeState) full() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.name == "" {
		return ""
	}
	return s.name + "://" + s.version
}

// update takes in an answer to the question how the runtime is.
func (s *runtimeState) update(st *cri.RuntimeStatus, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil || st == nil {
		return // silence: after a while that is an error of its own
	}
	s.runtime, s.network = nil, nil
	for _, c := range st.Conditions {
		if c.Status {
			continue
		}
		text := fmt.Sprintf("%s=%t reason:%s message:%s", c.Type, c.Status, c.Reason, c.Message)
		switch c.Type {
		case "RuntimeReady":
			s.runtime = fmt.Errorf("container runtime not ready: %s", text)
			return
		case "NetworkReady":
			s.network = fmt.Errorf("container runtime network not ready: %s", text)
		}
	}
	s.lastUp = time.Now()
}

// relisted notes that the containers have been listed.
func (s *runtimeState) relisted() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastRelist = time.Now()
}

func (s *runtimeState) networkError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.network
}

// problems is all that is wrong, as the node's Ready condition says it; nil when
// all is well. network leaves the pod network in or out.
func (s *runtimeState) problems(network bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	switch {
	case s.lastUp.IsZero() && s.runtime == nil:
		errs = append(errs, errors.New("container runtime status check may not have completed yet"))
	case !s.lastUp.IsZero() && time.Since(s.lastUp) > s.downGrace:
		errs = append(errs, errors.New("container runtime is down"))
	}
	switch since := time.Since(s.lastRelist); {
	case s.lastRelist.IsZero():
		errs = append(errs, errors.New("PLEG is not healthy: pleg has yet to be successful"))
	case since > s.relistGrace:
		errs = append(errs, fmt.Errorf("PLEG is not healthy: pleg was last seen active %v ago; threshold is %v", since, s.relistGrace))
	}
	if s.runtime != nil {
		errs = append(errs, s.runtime)
	}
	if network && s.network != nil {
		errs = append(errs, s.network)
	}
	if len(errs) == 0 {
		return nil
	}
	return utilerrors.NewAggregate(errs)
}
