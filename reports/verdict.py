"""The sweep's verdict as the report needs it: read from summary.json["selection"]."""

from __future__ import annotations
