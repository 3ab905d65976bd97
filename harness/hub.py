"""Manners with the Hugging Face libraries: whether the hub is there, and quiet errors."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No log lines of the libraries: what goes wrong is said in one line."""
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def is_away() -> bool:
    """Whether the hub cannot be reached: switched off, or its host has no address here.

    Asked first because the libraries try five times over half a minute before they say so. Behind
    a proxy the host need not have an address, so there the libraries decide.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return True
    if any(
        os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    ):
        return False
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return True
    return False


@contextlib.contextmanager
def offline_if_away() -> Iterator[None]:
    """Where the hub cannot be reached, make the libraries use what they have cached, at once."""
    from huggingface_hub import constants

    modules: list[Any] = [constants]
    if datasets := sys.modules.get("datasets"):
        modules.append(datasets.config)
    before = [module.HF_HUB_OFFLINE for module in modules]
    away = is_away()
    for module in modules:
        module.HF_HUB_OFFLINE = away or module.HF_HUB_OFFLINE
    try:
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


def first_line(error: BaseException) -> str:
    """The innermost cause in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
