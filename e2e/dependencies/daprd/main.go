// The Dapr sidecar with the components of its stable build and JetStream, built from the Go module as published.
//
// `go install …/daprd@version` is refused because the module replaces some of its own dependencies; a module of
// our own can repeat them, and go.sum pins them. This module changes no behaviour: the published images of Dapr have
// JetStream too, under a build tag that adds everything else.
package main

import (
	"github.com/dapr/components-contrib/pubsub/jetstream"
	"github.com/dapr/dapr/cmd/daprd/app"
	"github.com/dapr/dapr/pkg/components/pubsub"
)

func main() {
	pubsub.DefaultRegistry.RegisterComponent(jetstream.NewJetStream, "jetstream")
	app.Run()
}
