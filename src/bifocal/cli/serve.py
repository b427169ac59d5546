"""The commands of the service: serve, and the keys of its clients."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import AllowPlugin, RunOrBundle, State, StrictParity

if TYPE_CHECKING:
    from ..serve.settings import ServeConfig

Keys = Annotated[Path | None, typer.Option("--keys", help="The file of API keys; by default keys.json in the state.")]

lists_app = typer.Typer(help="Lists of known pictures.", no_args_is_help=True)
keys_app = typer.Typer(help="API keys of those who ask the service.", no_args_is_help=True)


def serve(
    run_folder: RunOrBundle,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 by default.")] = None,
    port: Annotated[int | None, typer.Option(help="8080 by default; 0 takes one that is free.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Settings of the service as YAML.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one setting; repeatable.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="torch, or of the run's bundles that of torch-bf16, onnx or onnx-int8; a bundle brings its own."
        ),
    ] = None,
    shadow: Annotated[
        Path | None,
        typer.Option(metavar="RUN2", help="A run or bundle that scores every post too, and decides none."),
    ] = None,
    database: Annotated[str | None, typer.Option(metavar="URL", help="Decision log; SQLite by default.")] = None,
    state: State = None,
    keys: Keys = None,
    everybody: Annotated[
        bool, typer.Option("--open", help="Answer without keys on an address that others reach.")
    ] = False,
    strict_parity: StrictParity = False,
    allow_plugin: AllowPlugin = None,
) -> None:
    """Answer over HTTP: decisions, review queue, health and metrics; until Ctrl-C or SIGTERM."""
    given = {
        "host": host,
        "port": port,
        "engine": engine,
        "shadow": shadow,
        "database": database,
        "state": state,
        "keys": keys,
        "open": everybody or None,
        "strict_parity": strict_parity or None,
        "allow_plugins": allow_plugin or None,
    }
    from ..errors import RunError
    from ..system.bundle import run_or_bundle

    run_or_bundle(run_folder)
    settings = read_service_settings(config, overrides or [], given)
    if settings.shadow is not None:
        try:
            run_or_bundle(settings.shadow)
        except RunError as error:
            raise RunError(f"--shadow: {error}") from None
    from ..serve.server import serve as run_service

    def started(url: str) -> None:
        typer.echo("\n".join([f"serving {run_folder} at {url}", *facts(run_folder, settings)]))

    run_service(run_folder, settings, started=started)


def facts(run_folder: Path, settings: ServeConfig) -> list[str]:
    """What who starts a service wants to know of it: who may ask, where it writes, what decides."""
    from sqlalchemy import make_url

    from ..decide.policy import Policy
    from ..serve.api.keys import read_keys
    from ..serve.settings import DECISIONS
    from ..system.bundle import engine_of, folder_of, policy_path

    folder, keys = folder_of(run_folder, settings.engine), _key_file(run_folder, settings.state, settings.keys)
    policy = Policy.load(policy_path(folder))
    needed = f"a key of {keys} is needed" if read_keys(keys) else f"no key is needed ({keys} holds none)"
    log = make_url(settings.database).render_as_string() if settings.database else f"{DECISIONS} in it"
    return [
        f"  who may ask: {needed}",
        f"  state: {state_folder(run_folder, settings.state)}; decision log: {log}",
        f"  decides: {engine_of(folder)}, policy {policy.version} of {folder}",
    ]


def read_service_settings(path: Path | None, overrides: list[str], given: dict[str, Any]) -> ServeConfig:
    """Settings of a file, of ``--set``, and of options, the latter winning. Raises `ConfigError`."""
    from pydantic import ValidationError

    from ..config import expand, explain, read_settings, set_option
    from ..errors import ConfigError
    from ..serve.settings import ServeConfig

    content: dict[str, Any] = {} if path is None else read_settings(path)
    for override in overrides:
        set_option(content, override)
    content |= {name: value for name, value in given.items() if value is not None}
    try:
        return ServeConfig.model_validate(expand(content))
    except ValidationError as error:
        raise ConfigError(f"{path or 'settings of the service'}: {explain(error, ServeConfig)}") from None


def state_folder(run_folder: Path, state: Path | None) -> Path:
    """Where a service of a run or bundle keeps what is its own. Raises `RunError` where the folder is neither."""
    from ..system.bundle import default_state_folder, run_or_bundle

    own = default_state_folder(run_or_bundle(run_folder))  # a wrong folder is told, whatever else is given
    return state or own


def _key_file(run_folder: Path, state: Path | None, keys: Path | None) -> Path:
    from ..serve.settings import KEYS

    folder = state_folder(run_folder, state)
    return keys or folder / KEYS


@keys_app.command("add")
def keys_add(
    run_folder: RunOrBundle,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the client, as the log will call it.")],
    role: Annotated[
        list[str] | None, typer.Option(help="decide (the default), review: the moderator's page, admin; repeatable.")
    ] = None,
    per_minute: Annotated[int | None, typer.Option(min=1, help="Posts that it may send; no limit by default.")] = None,
    state: State = None,
    keys: Keys = None,
) -> None:
    """Make a key, print it once, and keep its hash; a running service takes it up by itself."""
    from ..serve.api.keys import add_key

    typer.echo(add_key(_key_file(run_folder, state, keys), name, role or ["decide"], per_minute))  # type: ignore[arg-type]


@keys_app.command("list")
def keys_list(run_folder: RunOrBundle, state: State = None, keys: Keys = None) -> None:
    """Who has a key, for what, since when."""
    from ..serve.api.keys import read_keys

    for client in read_keys(_key_file(run_folder, state, keys)):
        limit = "no limit" if client.per_minute is None else f"{client.per_minute} posts a minute"
        until = f", revoked {client.revoked}" if client.revoked else ""
        told = f"{', '.join(client.roles)}  {limit}  key {client.key_id} since {client.created}{until}"
        typer.echo(f"{client.name}  {told}")


@keys_app.command("rotate")
def keys_rotate(
    run_folder: RunOrBundle,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of a client that has a key.")],
    state: State = None,
    keys: Keys = None,
) -> None:
    """Make a client's second key and print it once; the first one works until `keys revoke --old`."""
    from ..serve.api.keys import rotate_key

    typer.echo(rotate_key(_key_file(run_folder, state, keys), name))


@keys_app.command("revoke")
def keys_revoke(
    run_folder: RunOrBundle,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the client.")],
    old: Annotated[bool, typer.Option("--old", help="Of its two keys only the older one.")] = False,
    key: Annotated[str | None, typer.Option(metavar="ID", help="Only that key, as `keys list` names it.")] = None,
    state: State = None,
    keys: Keys = None,
) -> None:
    """Take a client's keys away, or one of them."""
    from ..errors import RunError
    from ..serve.api.keys import revoke_key

    if old and key is not None:
        raise RunError("--old and --key name a key each: give one of them")
    gone = revoke_key(_key_file(run_folder, state, keys), name, old=old, key_id=key)
    typer.echo(f"revoked of {name}: {', '.join(gone)}")


@lists_app.command("hash")
def lists_hash(
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURES", help="Files, or folders of them.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="CSV: PDQ hash, file name, time, quality.")],
    raw: Annotated[
        bool, typer.Option("--raw", help="Names as they are, also such as a spreadsheet runs as formulas.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is no such list.")] = False,
) -> None:
    """Make a list of pictures, for `lists` in the settings of a service."""
    from ..errors import listed
    from ..serve.known_pictures import write_list

    counts = write_list(pictures, output, as_they_are=raw, force=force)
    typer.echo(
        f"{output}: {counts['written']} pictures, {counts['poor']} of them with too little to be told by but exactly"
    )
    if skipped := counts["skipped"]:
        typer.echo(f"{len(skipped)} files are no pictures: {listed([repr(name) for name in skipped])}")
