"""One process for each model and host that executes the towers for all workers, which then hold no weights.

- `choice`: whether a spec takes it
- `client`: `HostRuntime`, the `Runtime` of a worker; `place`: finding and starting the process, and refusing others'
- `server`: the process; `batching`: calls of several workers that share a call of the model
- `wire`: messages and errors, as JSON; `memory`: arrays, in shared memory
"""
