"""What can be known of a real model in hours on two cores: `make real MODEL=FOLDER`.

`subjects` are the tasks and their splits; `methods` judges every cheap method, `roles` looks at
the heads of a circuit, `further` at nodes, rivals and searches. All of it ends as `facts`, of which
`page` makes docs/real.md. `python -m benchmarks.real`.
"""
