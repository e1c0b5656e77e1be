"""The two kinds of things that take turns: our program, a process per turn, and a peer kept alive."""

import json
import os
import select
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
LONG = 4.0  # seconds; a peer this slow needs no forward to warm up again in each turn
LABELS = {"runtime": "ours", "textbook": "ours, plan textbook", "nn": "ours, engine nn",
          "eager": "transformers eager", "compile": "torch.compile", "openvino": "OpenVINO"}
LIMITS = {"eager": 900, "compile": 180, "openvino": 180}  # seconds until the first answer


class Skip(Exception):
    """Why a column has no numbers."""


def environment(threads):
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}


def measured_process(command, threads, log, what):
    """Runs `command` to its end; (wall seconds, peak resident bytes)."""
    start = time.perf_counter()
    with open(log, "w", encoding="utf-8") as errors, \
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=environment(threads)) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise Skip(f"{what}: {last_words(log) or f'exit code {process.returncode}'}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def peak_so_far(pid):
    """Peak resident bytes of a process that still runs."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def last_words(log):
    with open(log, encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    return lines[-1][:200] if lines else ""


class Ours:
    """One engine and plan of `perceiver forward`."""

    FLAGS = {"runtime": ["--engine", "runtime"], "textbook": ["--engine", "runtime", "--plan", "textbook"],
             "nn": ["--engine", "nn"]}

    def __init__(self, name, options, work, folder, inputs):
        self.name, self.options = name, options
        self.folder, self.inputs = folder, inputs
        self.answers = os.path.join(work, f"{name}.safetensors")
        self.stats_file = os.path.join(work, f"{name}.json")
        self.log = os.path.join(work, f"{name}.log")
        self.measures_peak = False
        self.seconds, self.stats, self.peak, self.peaks = [], {}, 0, []

    def process(self, repeat, *more):
        command = [self.options.program, "forward", *self.FLAGS[self.name], "--model", self.folder, "--inputs",
                   self.inputs, "--outputs", self.answers, "--threads", str(self.options.threads),
                   "--repeat", str(repeat), "--stats", self.stats_file, *more]
        _, peak = measured_process(command, self.options.threads, self.log, "perceiver forward")
        with open(self.stats_file, encoding="utf-8") as file:
            self.stats = json.load(file)
        return peak

    def start(self):
        """One forward, as a user runs it: its answers and its memory."""
        self.peak = self.process(1)

    def turn(self, counted, warm):
        self.process(warm + counted, *(["--gemm-peak"] if self.measures_peak else []))
        self.seconds += self.stats["forward_seconds"][warm:]
        if "gemm_peak_flops" in self.stats:
            self.peaks.append(self.stats["gemm_peak_flops"])

    def stop(self):
        pass


class Peer:
    """One way to run transformers, in a process that lives as long as its cases need it."""

    def __init__(self, name, options, work, folder, inputs):
        self.name, self.options, self.work, self.folder = name, options, work, folder
        self.log = os.path.join(work, f"{name}.log")
        self.process, self.prepare_seconds, self.peak = None, 0, 0
        self.use(work, inputs)

    def use(self, work, inputs):
        """Goes on with another input of the same model and shapes."""
        self.inputs, self.answers = inputs, os.path.join(work, f"{self.name}.safetensors")
        self.seconds = []

    def command(self, *more):
        return [sys.executable, os.path.join(HERE, "peer_worker.py"), self.name, self.folder,
                str(self.options.threads), self.inputs, *more]

    def start(self):
        if self.process is None:
            if self.name == "eager":  # the others' memory is that of the process that compiles and runs
                _, self.peak = measured_process(self.command(self.answers), self.options.threads, self.log, "eager")
            with open(self.log, "a", encoding="utf-8") as errors:
                self.process = subprocess.Popen(self.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                                stderr=errors, start_new_session=True, text=True,
                                                env=environment(self.options.threads))
            self.prepare_seconds = self.read(LIMITS[self.name])["prepare_seconds"]
        self.forward(self.answers)

    def read(self, limit):
        ready, _, _ = select.select([self.process.stdout], [], [], limit)
        line = self.process.stdout.readline() if ready else ""
        if not ready or not line:
            self.stop(kill=True)
            raise Skip(f"not ready within {limit} s" if not ready else last_words(self.log) or "ended early")
        answer = json.loads(line)
        if "error" in answer:
            self.stop()
            raise Skip(answer["error"])
        return answer

    def forward(self, answers=None):
        self.process.stdin.write(json.dumps({"inputs": self.inputs, "outputs": answers}) + "\n")
        self.process.stdin.flush()
        return self.read(900)["seconds"]

    def turn(self, counted, warm):
        if self.seconds and self.seconds[-1] > LONG:
            warm = 0
        self.seconds += [self.forward() for _ in range(warm + counted)][warm:]
        if self.name != "eager":
            self.peak = peak_so_far(self.process.pid)

    def stop(self, kill=False):
        if self.process is None:
            return
        process, self.process = self.process, None
        if kill:  # compilers have children
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.stdin.close()
        process.wait()
        process.stdout.close()
