package rest

import (
	"bytes"
	"fmt"
	"testing"

	"orrery/apiserver/auth"
	"orrery/apiserver/kinds"
	"orrery/apiserver/registry"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A list that is put together from its objects' encodings is, to the byte, the
// encoding of the list's Go type, for every kind there is.
func TestPiecesMakeTheSameListAsTheType(t *testing.T) {
	left := int64(7)
	for _, k := range kinds.NewTable().All() {
		if k.Virtual() {
			continue
		}
		for _, mediaType := range []string{mediaJSON, mediaProto} {
			for n := range 3 {
				q := &request{Attributes: &auth.Attributes{}, kind: k, form: form{mediaType: mediaType}}
				p := page{meta: metav1.ListMeta{ResourceVersion: "12", Continue: "abc", RemainingItemCount: &left}}
				for i := range n {
					obj := k.Stored().New()
					obj.GetObjectKind().SetGroupVersionKind(k.Stored().GVK())
					m, err := meta.Accessor(obj)
					if err != nil {
						t.Fatal(err)
					}
					m.SetName(fmt.Sprint("object-", i))
					m.SetLabels(map[string]string{"a": "<b>"})
					p.items = append(p.items, &registry.Shared{Object: obj})
				}
				if !q.quick() {
					t.Errorf("%s as %s is not put together", k.GVK(), mediaType)
					continue
				}
				pieces, err := q.listPieces(p)
				if err != nil {
					t.Errorf("%s as %s: %v", k.GVK(), mediaType, err)
					continue
				}
				list, err := q.listObject(p)
				if err != nil {
					t.Fatal(err)
				}
				want, err := q.form.encode(list)
				if err != nil {
					t.Fatal(err)
				}
				if got := bytes.Join(pieces, nil); !bytes.Equal(got, want) {
					t.Errorf("%s as %s, %d objects:\n got %q\nwant %q", k.GVK(), mediaType, n, got, want)
				}
			}
		}
	}
}
