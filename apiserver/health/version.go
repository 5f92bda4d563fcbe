package health

import (
	"encoding/json"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/version"
)

// VersionInfo is the answer of /version for a version like v1.36.3+orrery.
func VersionInfo(gitVersion string) *version.Info {
	parts := strings.SplitN(strings.TrimPrefix(gitVersion, "v"), ".", 3)
	for len(parts) < 2 {
		parts = append(parts, "0")
	}
	major, minor := parts[0], parts[1]
	before := minor // what could be rolled back to
	if n, err := strconv.Atoi(minor); err == nil {
		before = strconv.Itoa(n - 1)
	}
	return &version.Info{
		Major: major, Minor: minor, EmulationMajor: major, EmulationMinor: minor, MinCompatibilityMajor: major, MinCompatibilityMinor: before, GitVersion: gitVersion, GitTreeState: "clean",
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
}

// ServeVersion answers /version.
func ServeVersion(info *version.Info) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { serveIndented(w, info) }
}

// ServeIndex answers / with all paths that are no resources.
func ServeIndex(paths func() []string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		list := paths()
		slices.Sort(list)
		serveIndented(w, map[string][]string{"paths": slices.Compact(list)})
	}
}

func serveIndented(w http.ResponseWriter, v any) {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // a client that went away is not our error
}
