"""How much of the encoders' throughput reaches the clients, what batching brings, and what the service itself costs.

Usage: python benchmarks/serving.py [--run FOLDER] [--posts 400] [--engine onnx] [--models 2]

Without --run, a run on generated memes with MiniLM and MobileNetV2 (heads fitted, encoders frozen; from the folder that
BIFOCAL_DATA names) is made first. Everything is measured on the same posts, in rounds that alternate between the ways,
and told as ratios within a round. The load generator is this process; what it takes of the CPU is told apart.
"""

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

import bifocal
from bifocal.config import parse_config
from bifocal.serve.settings import ServeConfig
from bifocal.sources.synthetic import Synthetic

DATA = os.environ.get("BIFOCAL_DATA", "../shared")


def make_run(place: Path) -> Path:
    config = {
        "run": "serving",
        "source": {"kind": "synthetic", "size": 800, "cue": "background", "structure": "and"},
        "ocr": "never",
        "splits": {"val": 0.25, "test": 0.25},
        "experts": {
            "text": {"model": f"{DATA}/models/minilm-l6", "tune": "head", "pooling": "mean"},
            "image": {"model": f"{DATA}/models/mobilenetv2-in1k", "tune": "head"},
        },
        "fusion": {"strategy": "concat", "seeds": 5},
        "robustness": {"attacks": []},
        "bootstrap": 100,
    }
    return bifocal.run(parse_config(config), root=place)


def posts_of(place: Path, n: int) -> list[dict]:
    source = Synthetic(size=n, cue="background", structure={"and": 1.0}, seed=7)
    found = []
    for example in source:
        path = place / f"{example.id}.png"
        path.write_bytes(source.open(example.parts["image"]))
        found.append({"text": example.parts["text"], "image_path": path})
    return found


class Service:
    def __init__(self, run: Path, engine: str | None, place: Path, *options: str):
        command = [sys.executable, "-m", "bifocal", "serve", str(run), "--port", "0", "--state", str(place / "state")]
        command += [*(["--engine", engine] if engine else []), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.host, _, self.port = self.process.stdout.readline().split("http://")[1].strip().partition(":")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def request_of(post: dict) -> bytes:
    """A whole HTTP request, made beforehand: the generator should cost as little as can be."""
    line = "a1b2c3d4e5f6"
    body = f'--{line}\r\nContent-Disposition: form-data; name="text"\r\n\r\n{post["text"]}\r\n'.encode()
    body += f'--{line}\r\nContent-Disposition: form-data; name="image"; filename="p"\r\n\r\n'.encode()
    body += post["image_path"].read_bytes() + f"\r\n--{line}--\r\n".encode()
    head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Content-Type: multipart/form-data; boundary={line}\r\n\r\n".encode() + body


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[int, float]:
    start = time.perf_counter()
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(next(row for row in head.split(b"\r\n") if row.lower().startswith(b"content-length")).split(b":")[1])
    await reader.readexactly(length)
    return int(head.split()[1]), time.perf_counter() - start


async def closed_loop(service: Service, requests: list[bytes], clients: int) -> tuple[float, list[float]]:
    """So many clients, each asking as soon as it is answered; seconds in all, and of each request."""
    waiting, seconds = list(reversed(requests)), []

    async def client() -> None:
        reader, writer = await asyncio.open_connection(service.host, int(service.port))
        while waiting:
            status, took = await ask(reader, writer, waiting.pop())
            assert status == 200, status
            seconds.append(took)
        writer.close()

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - start, seconds


async def open_loop(service: Service, requests: list[bytes], rate: float) -> tuple[list[float], int]:
    """Requests at a steady rate whether or not the earlier ones are answered: latencies, and how many were refused."""
    seconds: list[float] = []
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    refused = 0

    async def one(request: bytes) -> None:
        nonlocal refused
        pair = free.pop() if free else await asyncio.open_connection(service.host, int(service.port))
        status, took = await ask(*pair, request)
        free.append(pair)
        if status == 200:
            seconds.append(took)
        else:
            refused += 1

    tasks, start = [], time.perf_counter()
    for i, request in enumerate(requests):
        await asyncio.sleep(max(0.0, start + i / rate - time.perf_counter()))
        tasks.append(asyncio.create_task(one(request)))
    await asyncio.gather(*tasks)
    return seconds, refused


def in_process(system: bifocal.System, posts: list[dict], size: int) -> float:
    start = time.perf_counter()
    for i in range(0, len(posts), size):
        system.predict_batch(posts[i : i + size])
    return time.perf_counter() - start


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--posts", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine")
    parser.add_argument("--models", type=int, default=ServeConfig().models, help="processes that hold the models")
    parser.add_argument("--set", action="append", default=[], help="handed to `bifocal serve`")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        run = options.run or make_run(place)
        if options.engine and not (run / "bundles" / options.engine).exists():
            from bifocal.deploy.export import export

            export(run, options.engine, accept=True)
        system = bifocal.load(run, options.engine)
        posts = posts_of(place, options.posts)
        requests = [request_of(post) for post in posts]
        extra = [part for value in (*options.set, f"models={options.models}") for part in ("--set", value)]
        service = Service(run, options.engine, place, *extra)
        alone = Service(run, options.engine, place / "alone", "--set", "batch_pictures=1", *extra)
        found: dict[str, list[float]] = {"share": [], "batching": [], "generator": []}
        in_process(system, posts[:64], 32)
        for server in (service, alone):
            asyncio.run(closed_loop(server, requests[:64], 8))
        rates = []
        for _ in range(options.rounds):
            here = len(posts) / in_process(system, posts, 32)
            before = cpu()
            took, seconds = asyncio.run(closed_loop(service, requests, 32))
            found["generator"].append((cpu() - before) / took)
            one_by_one, _ = asyncio.run(closed_loop(alone, requests, 32))
            rates.append(len(posts) / took)
            found["share"].append(rates[-1] / here)
            found["batching"].append(one_by_one / took)
            print(
                f"in process {here:.1f} posts/s, served {rates[-1]:.1f} (median {statistics.median(seconds):.3f} s), "
                f"one by one {len(posts) / one_by_one:.1f}"
            )
        alone.stop()
        load = 0.8 * statistics.median(rates)
        seconds, refused = asyncio.run(open_loop(service, requests * 2, load))
        seconds.sort()
        middle, last = statistics.median(seconds), seconds[int(0.99 * len(seconds))]
        overhead = []
        threads = max(1, (os.cpu_count() or 1) // options.models)  # as each of the service's processes has
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
        system = bifocal.load(run, options.engine)
        system.predict_batch(posts[:8])
        for i in range(0, len(posts), 20):  # in turns; on one connection, as HTTP clients keep it
            by_python: list[float] = []
            for post in posts[i : i + 20]:
                start = time.perf_counter()
                system.predict(**post)
                by_python.append(time.perf_counter() - start)
            there = asyncio.run(closed_loop(service, requests[i : i + 20], 1))[1]
            overhead.append(statistics.median(there) - statistics.median(by_python))
        service.stop()
    figures = {name: statistics.median(values) for name, values in found.items()}
    print(
        json.dumps(
            {
                "engine": system.engine.name,
                "served_to_in_process": round(figures["share"], 3),
                "batched_to_one_by_one": round(figures["batching"], 3),
                "generator_cores": round(figures["generator"], 3),
                "at_80_percent": {
                    "median_s": middle,
                    "p99_s": last,
                    "p99_to_median": last / middle,
                    "refused": refused,
                },
                "overhead_ms_median": 1000 * statistics.median(overhead),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
