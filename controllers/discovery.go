package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"orrery/client"
)

// apiResource is one kind that the server has, under its preferred version.
type apiResource struct {
	gvr        schema.GroupVersionResource
	kind       string
	namespaced bool
	verbs      []string
}

func (r apiResource) can(verbs ...string) bool {
	for _, v := range verbs {
		if !slices.Contains(r.verbs, v) {
			return false
		}
	}
	return true
}

// discover asks the server which resources it has, subresources left out. If some
// groups do not answer, it returns the others and an error.
//
// Upstream: k8s.io/client-go/discovery, ServerPreferredResources.
func discover(ctx context.Context, c *client.Client) (out []apiResource, err error) {
	var groups metav1.APIGroupList
	if err := getJSON(ctx, c, "/apis", &groups); err != nil {
		return nil, err
	}
	versions := []string{"v1"}
	for _, g := range groups.Groups {
		versions = append(versions, g.PreferredVersion.GroupVersion)
	}
	var failed []string
	for _, version := range versions {
		path := "/apis/" + version
		if version == "v1" {
			path = "/api/v1"
		}
		var list metav1.APIResourceList
		if err := getJSON(ctx, c, path, &list); err != nil {
			failed = append(failed, fmt.Sprintf("%s: %v", version, err))
			continue
		}
		gv, err := schema.ParseGroupVersion(version)
		if err != nil {
			return nil, err
		}
		for _, r := range list.APIResources {
			if !strings.Contains(r.Name, "/") {
				out = append(out, apiResource{gvr: gv.WithResource(r.Name), kind: r.Kind, namespaced: r.Namespaced, verbs: r.Verbs})
			}
		}
	}
	if len(failed) > 0 {
		err = fmt.Errorf("unable to retrieve the complete list of server APIs: %s", strings.Join(failed, ", "))
	}
	return out, err
}

func getJSON(ctx context.Context, c *client.Client, path string, into any) error {
	raw, err := c.Raw(ctx, http.MethodGet, path, nil, "", nil)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}
