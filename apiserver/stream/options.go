package stream

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// flag reads a boolean parameter: whatever is there is true, except "false" and "0".
//
// Upstream: staging/src/k8s.io/apimachinery/pkg/runtime/conversion.go, Convert_Slice_string_To_bool.
func flag(q url.Values, name string) bool {
	switch values, ok := q[name]; {
	case !ok || len(values) == 0:
		return false
	case values[0] == "0" || strings.EqualFold(values[0], "false"):
		return false
	}
	return true
}

// terminalOptions reads the query of exec and attach.
func terminalOptions(q url.Values) terminal {
	return terminal{stdin: flag(q, "stdin"), stdout: flag(q, "stdout"), stderr: flag(q, "stderr"), tty: flag(q, "tty"),
		command: q["command"], container: q.Get("container")}
}

// logOptions reads the query of log.
func logOptions(q url.Values) (*corev1.PodLogOptions, error) {
	o := &corev1.PodLogOptions{Container: q.Get("container"), Follow: flag(q, "follow"), Previous: flag(q, "previous"), Timestamps: flag(q, "timestamps")}
	for name, field := range map[string]**int64{"sinceSeconds": &o.SinceSeconds, "tailLines": &o.TailLines, "limitBytes": &o.LimitBytes} {
		if text := q.Get(name); text != "" {
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return nil, apierrors.NewBadRequest(err.Error())
			}
			*field = &n
		}
	}
	if text := q.Get("sinceTime"); text != "" {
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		o.SinceTime = &metav1.Time{Time: t}
	}
	if stream := q.Get("stream"); stream != "" {
		switch stream {
		case corev1.LogStreamAll, corev1.LogStreamStdout, corev1.LogStreamStderr:
		default:
			return nil, apierrors.NewBadRequest(fmt.Sprintf("stream: Unsupported value: %q: supported values: \"All\", \"Stderr\", \"Stdout\"", stream))
		}
		o.Stream = &stream
	}
	return o, nil
}
