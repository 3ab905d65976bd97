"""Files of neighbouring tools: their results taken in beside a checkpoint's, and ours given out.

`read_lm_eval` and `read_inspect` know the files, `extra` keeps what came from them, `take` is
``prefeval import``; `give_lm_eval`, `give_tidy` and `give` are ``prefeval export``.
"""
