"""``cmd-cli deploy``: jobs that run by themselves, through systemd or cron."""

from __future__ import annotations

import os
from typing import Any, Final

import click

from cmd_cli.command import Cmd, Run, flag

__all__ = ["command"]

_ACTIONS: Final = ("show", "check", "install", "remove")
_OURS: Final = ("cryptomarketdata-*.service", "cryptomarketdata-*.timer")


def _deploy(kind: str, action: str | None, **flags: Any) -> int:
    from cmd_common.errors import UsageError

    run = Run("deploy", flags)
    if kind == "notify":
        return _notify(run, flags)
    if action is None:
        raise UsageError(f"what to do with {kind} is not said", hint=f"one of: {', '.join(_ACTIONS)}")
    if flags["user"] == flags["system"]:
        raise UsageError("for whom is not said", hint="add --user, or --system as root")
    if kind == "cron":
        return _cron(run, action, flags)
    return _systemd(run, action, flags)


def _plan(run: Run, flags: Any) -> Any:
    """What to deploy; raises UsageError."""
    import shlex
    import sys
    import tomllib

    from cmd_cli.deployment.plan import JOBS, Plan, jobs_of, settings_of
    from cmd_common.errors import UsageError
    from cmd_common.symbols import nearest

    shared = click.get_current_context().ensure_object(dict)
    config = shared.get("config") or os.environ.get("CMD_CONFIG") or ""
    if not config:
        raise UsageError("no configuration is given", hint="add --config FILE; cmd-cli config init writes one")
    config = os.path.abspath(config)
    with open(config, "rb") as file:  # it was read before: this is about which sections it has
        sections = [name for name, value in tomllib.load(file).items() if isinstance(value, dict)]
    wanted = tuple(part for word in flags["jobs"] for part in word.split(",") if part) or jobs_of(sections)
    for job in wanted:
        if job not in JOBS:
            near = nearest(job, JOBS)
            raise UsageError(
                f"unknown job {job!r}", hint=f"did you mean {near[0]}?" if near else f"jobs are: {', '.join(JOBS)}"
            )
    if not wanted:
        raise UsageError(
            f"{config} has no section of a job", hint=f"add one of {', '.join(f'[{job}]' for job in JOBS)}, or --jobs"
        )
    at = run.get("at")
    parts = at.split(":")
    if len(parts) != 2 or not all(p.isdigit() for p in parts) or int(parts[0]) > 23 or int(parts[1]) > 59:
        raise UsageError(f"{at!r} is no time of a day", hint="write it as 00:40")
    settings = run.settings
    stores = {job: settings.get(job, "store") for job in wanted}
    if raw := settings.get("record", "raw"):
        stores["raw"] = f"raw:{raw}"
    command = tuple(shlex.split(flags["command"])) if flags["command"] else (sys.executable, "-m", "cmd_cli")
    return Plan(
        jobs=tuple(job for job in JOBS if job in wanted),
        command=command,
        config=config,
        scope="user" if flags["user"] else "system",
        data=settings_of(stores),
        user=run.get("run-as"),
        home=os.path.expanduser("~"),
        at=at,
        memory=run.get("memory"),
    )


def _systemd(run: Run, action: str, flags: Any) -> int:
    from cmd_cli.deployment import carry_out
    from cmd_cli.deployment.plan import NAME, systemd_files

    user, root = bool(flags["user"]), flags["root"] or "/"
    staged = root != "/"
    with run.output() as output:
        if action == "remove":
            folder = f"{os.path.expanduser('~').lstrip('/')}/.config/systemd/user" if user else "etc/systemd/system"
            names = sorted(p for pattern in _OURS for p in _names(root, folder, pattern))
            if not flags["dry_run"] and not staged and names:
                endless = [n for n in names if "@" not in n]
                carry_out.systemctl(["disable", "--now", *endless], output, user=user)
            gone = names if flags["dry_run"] else carry_out.remove(root, folder, _OURS)
            if gone and not flags["dry_run"] and not staged:
                carry_out.systemctl(["daemon-reload"], output, user=user)
            output.info(f"{'would remove' if flags['dry_run'] else 'removed'} {len(gone)} units")
            return 0
        plan = _plan(run, flags)
        files = systemd_files(plan)
        if action == "show" or (action == "install" and flags["dry_run"]):
            output.close()
            for file in files:
                click.echo(f"# {os.path.join(root, file.path)}\n{file.text}")
            return 0
        found = carry_out.check_units(files, user=user)
        if action == "check":
            for line in found:
                output.warn(line)
            output.info(f"{len(files)} units checked by systemd-analyze: {len(found)} findings")
            return 1 if found else 0
        for line in found:
            output.warn(line)
        changed = carry_out.write(files, root)
        output.info(f"{len(changed)} of {len(files)} units written")
        if not staged and carry_out.systemctl(["daemon-reload"], output, user=user):
            wanted = [os.path.basename(f.path) for f in files if f.path.endswith(".timer")]
            wanted += [f"{NAME}-{job}.service" for job in plan.jobs if job in ("record", "serve")]
            carry_out.systemctl(["enable", "--now", *wanted], output, user=user)
            output.info(f"enabled and started: {', '.join(wanted)}")
        return 0


def _names(root: str, folder: str, pattern: str) -> list[str]:
    from pathlib import Path

    return [path.name for path in Path(root, folder).glob(pattern)]


def _cron(run: Run, action: str, flags: Any) -> int:
    from importlib.resources import files as resources

    from cmd_cli.deployment import carry_out
    from cmd_cli.deployment.plan import NAME, cron_files, cron_line
    from cmd_common.errors import UsageError

    user, root = bool(flags["user"]), flags["root"] or "/"
    script = resources("cmd_cli.deployment").joinpath("archive-daily.sh").read_text()
    marker = f"/{NAME}/archive-daily.sh"
    with run.output() as output:
        if action == "remove":
            if flags["dry_run"]:
                output.info("would remove the entry and its script")
                return 0
            if user:
                home = os.path.expanduser("~").lstrip("/")
                if root == "/":
                    carry_out.crontab(None, marker)
                gone = carry_out.remove(root, f"{home}/.local/share/{NAME}", ["archive-daily.sh"])
            else:
                gone = carry_out.remove(root, "etc/cron.d", [NAME])
                gone += carry_out.remove(root, f"usr/local/lib/{NAME}", ["archive-daily.sh"])
            output.info(f"removed {len(gone)} files")
            return 0
        plan = _plan(run, flags)
        if "archive" not in plan.jobs:
            raise UsageError("cron runs the archive, and the configuration has no section [archive]")
        files, line = cron_files(plan, script), cron_line(plan)
        if action == "show" or flags["dry_run"]:
            output.close()
            click.echo(line)
            return 0
        if action == "check":
            absent = carry_out.missing(files, root)
            for path in absent:
                output.warn(f"{path} is not there, or is another one: cmd-cli deploy cron install")
            output.info(f"{len(files)} files checked: {len(absent)} findings")
            return 1 if absent else 0
        changed = carry_out.write(files, root)
        if user and root == "/":
            carry_out.crontab(line, marker)
        output.info(f"{len(changed)} of {len(files)} files written; every day at {plan.at}, local time")
        return 0


def _notify(run: Run, flags: Any) -> int:
    from cmd_cli.deployment import notify
    from cmd_common.errors import UsageError

    address, url = run.get("mail"), run.get("webhook")
    if path := run.get("webhook-file"):
        try:
            with open(path, encoding="utf-8") as file:
                url = file.read().strip()
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    with run.output() as output:
        if not address and not url:
            output.info("nobody is told: neither deploy.mail nor deploy.webhook is set")
            return 0
        text = notify.text_of(flags["unit"] or "", flags["code"] or "")
        if url:
            notify.webhook(url, text, flags["unit"] or "", flags["code"] or "")
        if address:
            notify.mail(address, text)
        output.info(text)
    return 0


command = Cmd(
    "deploy",
    _deploy,
    doc="Have jobs run by themselves: units of systemd for record, serve, archive and repair, or an entry of cron for the\n"
    "archive of every day. Which jobs, and all of their settings, come from the configuration's sections.",
    examples=[
        ("the units that would be installed", "cmd-cli deploy systemd show --system --config cmd.toml"),
        ("checked by systemd-analyze", "cmd-cli deploy systemd check --user --config cmd.toml"),
        ("the entry of cron", "cmd-cli deploy cron show --user --config cmd.toml"),
    ],
    params=[
        click.Argument(["kind"], type=click.Choice(["systemd", "cron", "notify"])),
        click.Argument(["action"], type=click.Choice(_ACTIONS), required=False),
        click.Option(["--user"], is_flag=True, help="for the user who runs this"),
        click.Option(["--system"], is_flag=True, help="for the machine, as root, running as a user of its own"),
        click.Option(
            ["--jobs"],
            multiple=True,
            metavar="JOB...",
            help="record, serve, archive, repair [default: the sections of the configuration]",
        ),
        click.Option(["--command"], metavar="WORDS", help="how cmd-cli is started [default: as now]"),
        click.Option(["--root"], metavar="FOLDER", help="write below this folder, and start nothing"),
        click.Option(["--dry-run"], is_flag=True, help="only say what would be done"),
        click.Option(["--unit"], metavar="NAME", help="notify: what failed"),
        click.Option(["--code"], metavar="N", help="notify: its exit code"),
        flag("deploy", "at", metavar="HH:MM"),
        flag("deploy", "run-as", metavar="USER"),
        flag("deploy", "memory", metavar="SIZE"),
        flag("deploy", "mail", metavar="ADDRESS"),
        flag("deploy", "webhook", metavar="URL"),
        flag("deploy", "webhook-file", metavar="FILE"),
    ],
    notes="notify is what the units and the cron script call when a job failed. A whole host: deploy/install.sh, docs/deploy.md.",
)
