// The Dapr sidecar with the components of its stable build, built from the Go module as published.
//
// `go install …/daprd@version` is refused because the module replaces some of its own dependencies; a module of
// our own can repeat them, and go.sum pins them. This module changes no behaviour.
package main

import "github.com/dapr/dapr/cmd/daprd/app"

func main() { app.Run() }
