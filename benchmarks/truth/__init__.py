"""Which methods find true circuits: every method on every model whose circuit, or effects, we know.

`contenders` lists the methods, `subjects` the models and tasks; `judging` measures one on the
other, `cells` keeps what came out, `page` and `picture` show it. `python -m benchmarks.truth`.
"""
