// Package aggregation makes the APIs of other servers part of this one: an
// APIService names a group and version, and the Service that serves it. A
// metrics server registers so.
//
//	APIService ──▶ Aggregator ──▶ is it available? what does it serve? ──▶ table of kinds ──▶ discovery
//	                  │
//	request ──▶ Wrap ─┴─▶ /apis/GROUP/VERSION/... goes to the Service, with the user's name in headers
//
// What is served here has an APIService too, so that clients find all in one list.
//
// Invariants: requests are authenticated and authorized here before they go on;
// what the client sent as proof of who it is stays here.
//
// Left out: OpenAPI documents of other servers, except the path of each group's
// own v3 document; discovery of a server that is away shows what it served last.
//
// Read next: aggregator.go, proxy.go; ../backend for the connections.
package aggregation
