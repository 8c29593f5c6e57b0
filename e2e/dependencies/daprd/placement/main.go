// The placement service of Dapr, which workflows and actors need, from the module of the sidecar. It changes no behaviour.
package main

import "github.com/dapr/dapr/cmd/placement/app"

func main() {
	app.Run()
}
