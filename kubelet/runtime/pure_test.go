package runtime

import (
	"slices"
	"testing"
	"time"

	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/containers"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestCommandAndArgsReplaceTheImages(t *testing.T) {
	image := imagespec.ImageConfig{Entrypoint: []string{"entry"}, Cmd: []string{"cmd"}}
	for _, c := range []struct{ command, args, want []string }{
		{nil, nil, []string{"entry", "cmd"}},
		{nil, []string{"a"}, []string{"entry", "a"}},
		{[]string{"c"}, nil, []string{"c"}},
		{[]string{"c"}, []string{"a"}, []string{"c", "a"}},
	} {
		got, err := processArgs(&cri.ContainerConfig{Command: c.command, Args: c.args}, image)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("command %q, args %q: %q, %v", c.command, c.args, got, err)
		}
	}
	if _, err := processArgs(&cri.ContainerConfig{}, imagespec.ImageConfig{}); err == nil {
		t.Error("a container without a command is accepted")
	}
}

func TestSlicesLieInSlices(t *testing.T) {
	if got, want := expandSlice("a-b-c.slice"), "a.slice/a-b.slice/a-b-c.slice"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestCredentialsComeInThreeForms(t *testing.T) {
	for _, c := range []struct {
		auth         *cri.AuthConfig
		user, secret string
	}{
		{nil, "", ""},
		{&cri.AuthConfig{Username: "u", Password: "p"}, "u", "p"},
		{&cri.AuthConfig{IdentityToken: "t"}, "", "t"},
		{&cri.AuthConfig{Auth: "dTpwOnE="}, "u", "p:q"},
	} {
		if user, secret, err := credentials(c.auth); err != nil || user != c.user || secret != c.secret {
			t.Errorf("%v: %q, %q, %v", c.auth, user, secret, err)
		}
	}
	if _, _, err := credentials(&cri.AuthConfig{Auth: "dQ=="}); err == nil {
		t.Error("a secret without a password is accepted")
	}
}

func TestAContainersStateIsReadFromItsRecordAndTask(t *testing.T) {
	started := map[string]string{labelStarted: stamp(time.Unix(1, 0))}
	ended := map[string]string{labelStarted: stamp(time.Unix(1, 0)), labelExitCode: "0", labelFinished: stamp(time.Unix(2, 0))}
	for _, c := range []struct {
		what   string
		labels map[string]string
		task   tasktypes.Status // UNKNOWN here stands for no task
		want   cri.ContainerState
	}{
		{"a new record", nil, 0, cri.ContainerState_CONTAINER_CREATED},
		{"a process that waits for its start", started, tasktypes.Status_CREATED, cri.ContainerState_CONTAINER_CREATED},
		{"a process", started, tasktypes.Status_RUNNING, cri.ContainerState_CONTAINER_RUNNING},
		{"an ended process that nobody has reaped", started, tasktypes.Status_STOPPED, cri.ContainerState_CONTAINER_RUNNING},
		{"a written end, the task still there", ended, tasktypes.Status_STOPPED, cri.ContainerState_CONTAINER_EXITED},
		{"a written end", ended, 0, cri.ContainerState_CONTAINER_EXITED},
		{"a start and nothing else", started, 0, cri.ContainerState_CONTAINER_EXITED},
	} {
		r := &record{Container: containers.Container{Labels: c.labels}}
		if c.task != 0 {
			r.task = &tasktypes.Process{Status: c.task}
		}
		if got := r.state(); got != c.want {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
	}
}
