"""Telling a person that a job failed: a mail through the machine's sendmail, a webhook, or both."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from datetime import UTC, datetime
from email.message import EmailMessage

from cmd_common.errors import CmdError, UsageError

__all__ = ["mail", "text_of", "webhook"]

_TIMEOUT = 30.0


def text_of(unit: str, code: str) -> str:
    """One line of what failed, when and where."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    with_code = f" with exit code {code}" if code else ""
    return f"CryptoMarketData: {unit or 'a job'} failed{with_code} on {socket.gethostname()} at {now}"


def webhook(url: str, text: str, unit: str, code: str) -> None:
    """Post ``{"text", "host", "unit", "code"}``, which Slack and others take. Raises CmdError; the URL is never shown."""
    body = json.dumps({"text": text, "host": socket.gethostname(), "unit": unit, "code": code}).encode()
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            answer.read(1000)
    except urllib.error.HTTPError as error:
        raise CmdError(f"the webhook answered HTTP {error.code}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        raise CmdError(f"the webhook could not be reached: {str(reason).replace(url, 'its address')}") from None


def mail(address: str, text: str) -> None:
    """Send a mail through sendmail. Raises UsageError where there is none, CmdError with its words."""
    tool = shutil.which("sendmail", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/lib")))
    if tool is None:
        raise UsageError(
            "sendmail is not installed, so that no mail can be sent",
            hint="install a mail server, or set deploy.webhook",
        )
    message = EmailMessage()
    message["To"] = address
    message["Subject"] = text
    message.set_content(f"{text}\n\nIts log: journalctl, or the log that its crontab entry names.\n")
    try:
        done = subprocess.run(
            [tool, "-t", "-oi"], input=message.as_bytes(), capture_output=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CmdError(f"sendmail: {error}") from error
    if done.returncode:
        raise CmdError(f"sendmail ended with {done.returncode}: {done.stderr.decode(errors='replace').strip()}")
