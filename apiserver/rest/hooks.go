package rest

import (
	"context"
	"net/http"

	"orrery/apiserver/auth"
	"orrery/apiserver/kinds"

	"k8s.io/apimachinery/pkg/runtime"
)

// Connecter serves a subresource whose answer is a stream and not an object:
// log, exec, attach, portforward, proxy. Authorization has been done; admission
// of CONNECT too. path is what follows "proxy/" in the URL. It answers errors
// with WriteError.
type Connecter func(w http.ResponseWriter, r *http.Request, k *kinds.Kind, a *auth.Attributes, path string)

// Creater answers the POST of something that is computed and not stored: a
// TokenReview, a serviceaccounts/token. body is of the version of the path, and
// so is the answer, which is sent with status 201.
type Creater func(ctx context.Context, a *auth.Attributes, body runtime.Object) (runtime.Object, error)

// Reader finds out the objects of a resource that is computed and not stored:
// all of them, or the one of a name, whose absence is an error. They have their
// kind and apiVersion.
type Reader func(ctx context.Context, name string) ([]runtime.Object, error)

// Hooks are the handlers that other packages bring. Keys are "pods/log" or
// "serviceaccounts/token" for subresources of core kinds, "tokenreviews.authentication.k8s.io"
// for virtual resources: GroupResource.String(), and "/subresource" behind it.
type Hooks struct {
	Connect map[string]Connecter
	Create  map[string]Creater
	Read    map[string]Reader
}
