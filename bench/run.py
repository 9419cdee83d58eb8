"""One run: act, step, store, update, evaluate, checkpoint; from a RunConfig to a finished run directory."""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import shutil
import socket
import sys
import time
import traceback
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import algos
import envs
from algos.agent import Rollout, sample
from algos.replay import buffer_for
from bench import cost, devices, provenance
from bench.clock import Clock, CudaClock
from bench.compose import agent_config, changed_from_defaults
from bench.config import RunConfig, check_rollout, identity, to_plain
from bench.contract import BOUND, GlobalDraws
from bench.evaluate import Evaluator, Probes, stream_seed
from bench.finite import FirstNonFinite, NonFinite, finite
from bench.mirror import Mirror, mirror
from bench.rundir import EPISODES, HEARTBEAT, RunDir, load_tensors, read_json, replace_file, save_tensors
from bench.speed import check_same_matmul, keep_freed_memory, phase_runner, set_matmul
from bench.typed import UsageError

STREAMS = {"init": 10, "explore": 11, "replay": 12, "noise": 13}  # words that keep a run's random streams apart
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no space, no quota, a file larger than this process may write


class Stopped(Exception):
    """The run was asked to stop; its state is on disk."""


class Run:
    """A run with everything it needs in memory. `stop` may be set (by a signal handler) to end it at a decision."""

    def __init__(self, config: RunConfig, directory: RunDir, session: dict[str, Any] | None = None):
        """Raises UsageError where the directory holds another run. session: jobs, command, cell_command."""
        config, auto = directory.prepare(config)
        if config.device == "cuda":
            devices.here()
        self.config, self.dir, self.stop = config, directory, False
        self.path = directory.path
        torch.set_num_threads(config.threads)
        keep_freed_memory()
        precision = set_matmul(config.matmul, config.device)
        self.device = torch.device(config.device)
        self.copies = config.env["num_envs"]
        self.env, self.spec = envs.make(config.env["id"], config.seed, self.copies, **config.env_settings)
        self.agent_config = agent_config(config.algo)
        self.generators = {name: self._generator(name) for name in STREAMS}
        self.agent = self._new_agent(self.generators["init"])
        self.run_phase = phase_runner(self.agent, config.speed)
        self.replay = buffer_for(self.agent.data, self.spec.obs_dim, self.spec.act_dim, self.copies, self.device)
        check_rollout(self.config, self.agent.data)
        self.evaluator, self.probes = Evaluator(config, self.device), Probes(config, self.device)
        self.new_clock = CudaClock if self.device.type == "cuda" else Clock
        self.clock = self.new_clock()
        self.env_step = 0
        self.eval_due = False  # an evaluation that has to be made here; a stop may come between
        self.latest: dict[str, torch.Tensor] = {}
        self.losses = FirstNonFinite(self.device)
        self.finished_returns: list[float] = []
        self.episode_return = np.zeros(self.copies)
        self.history: list[list[np.ndarray]] = [[] for _ in range(self.copies)]  # actions of the open episodes
        self.stored_rows = 0
        self.last_return: float | None = None
        self._beat, self._rate = 0.0, (time.time(), 0)
        self.mirror: Mirror | None = None
        self.global_draws = GlobalDraws()
        self._open(auto, precision, session or {})
        self.mirror = self._new_mirror()

    def _new_mirror(self) -> Mirror | None:
        """As `_mirror`, for what goes wrong when it begins; a package that is missing is the user's to install."""
        try:
            return mirror(self.config.logger, self.path, to_plain(self.config))
        except UsageError:
            raise
        except Exception as error:
            print(f"warning: logger={self.config.logger} gave up ({type(error).__name__}: {error})", file=sys.stderr)
            return None

    # -- construction --------------------------------------------------------------------------------------------------
    def _generator(self, name: str) -> torch.Generator:
        device = "cpu" if name == "init" else self.device
        return torch.Generator(device).manual_seed(stream_seed(self.config.seed, STREAMS[name]))

    def _new_agent(self, generator: torch.Generator) -> algos.agent.Agent:
        return algos.agent_class(self.config.algo["agent"])(self.spec, self.agent_config, generator, self.device)

    def _open(self, auto: list[str], precision: str, session: dict[str, Any]) -> None:
        """Write what a new directory needs, or take up the newest checkpoint of an old one."""
        checkpoint = self.path / "checkpoint.pt"
        parts = ("identity", "offsets", "counters", "agent", "generators", "env", "clock")
        stored = load_tensors(checkpoint, *parts) if checkpoint.exists() else None  # refused before anything is written
        if stored is None and len(list(self.path.glob("replay/*.pt"))) > 1:  # one may come before the first checkpoint
            raise UsageError(f"{self.path} has the replay of several checkpoints and no checkpoint.pt; put it back, "
                             "or choose another --name")  # fmt: skip
        if stored is not None:
            self.dir.refuse_other_settings(stored["identity"], identity(self.config))
            check_same_matmul(self.path, self.dir.sessions(), precision)
            self.dir.check_lengths(stored["offsets"])
            self._restore_replay(stored["counters"]["rows"])
            probed = self._stored_probes()
        self.path.mkdir(parents=True, exist_ok=True)
        self.dir.reopen()
        spec = self.spec.to_dict()
        self.dir.write_config(self.config, auto, changed_from_defaults(self.config.algo), spec)
        device = "cpu" if self.config.device == "cpu" else f"cuda: {torch.cuda.get_device_name()}"
        described = {"jobs": 1, "command": [], "cell_command": ""} | session
        self.dir.add_session(provenance.session(self.config, device, precision, **described))
        if stored is not None:
            self._restore(stored, probed)
            if self._counted() is None:  # it was lost
                self._count()
            return
        self.dir.cut_back({})
        shutil.rmtree(self.path / "replay", ignore_errors=True)
        self.obs, _ = self.env.reset()
        if not finite(self.obs):
            raise NonFinite("observation", 0)
        self._count()
        self.clock.lap("setup")
        self._evaluate()
        self._log()

    def _count(self) -> None:
        self.dir.write_json("cost.json", cost.count(self._new_agent(torch.Generator().manual_seed(0))))

    def _counted(self) -> dict[str, Any] | None:
        """What `_count` has written; None where it is gone or damaged, for it can be counted again."""
        with contextlib.suppress(UsageError):
            return read_json(self.path / "cost.json", parameters=int)
        return None

    # -- the loop ------------------------------------------------------------------------------------------------------
    def train(self) -> None:
        """Run to `steps`. Raises NonFinite, Stopped, or whatever an environment or agent raises."""
        self._rate = (time.time(), self.env_step)
        config, per = self.config, self.config.frames_per_decision
        warmup = 0 if isinstance(self.agent.data, Rollout) else config.warmup
        log_at, eval_at = self._next(config.log_every), self._next(config.eval_every)
        checkpoint_at = self._next(config.checkpoint_every)
        self._mirror()
        self.global_draws.look()
        self.clock.lap("setup")
        if self.eval_due:
            self._evaluate()
            self._stop_if_asked()
        while self.env_step < config.steps:
            warm = self.env_step < warmup
            self._decide(warm)
            self.env_step += per
            if not warm:
                for _ in range(self.replay.updates_due()):
                    self._update()
            if self.env_step >= log_at:
                self._log()
                log_at = self._next(config.log_every)
            if self.env_step >= min(eval_at, config.steps):
                self.eval_due = True
                self._evaluate()
                eval_at = self._next(config.eval_every)
            self._stop_if_asked()
            if self.env_step >= checkpoint_at:
                self.checkpoint()
                checkpoint_at = self._next(config.checkpoint_every)
            if self._heartbeat():
                self.clock.lap("log")
        self._finish()

    def _stop_if_asked(self) -> None:
        if self.stop:
            self.checkpoint()
            self._progress("stopped")
            raise Stopped

    def _next(self, every: int) -> int:
        """The next multiple of an interval, from the step alone, so that a resumed run keeps the same points."""
        return (self.env_step // every + 1) * every

    def _decide(self, warm: bool) -> None:
        """One decision of every copy: act, step, store."""
        obs, kept = torch.from_numpy(self.obs).to(self.device), {}
        if warm and self.spec.action_low is not None:
            shape = (self.copies, self.spec.act_dim)
            action = torch.rand(shape, generator=self.generators["explore"], device=self.device) * 2 - 1
        else:
            draws = self.agent.draws("explore", self.copies)
            action, kept = self.agent.explore(obs, sample(draws, self.generators["explore"], self.device))
        played = action.cpu().numpy()
        if not finite(played):
            self.losses.check()
            raise NonFinite("action", self.agent.updates)
        if self.agent.bounded_actions and (largest := np.abs(played).max()) > BOUND:  # played clipped, stored as it is
            raise ValueError(f"an action of {largest:.7g}: {type(self.agent).__name__} declares actions in [-1, 1]")
        self.clock.lap("act")
        next_obs, reward, terminated, truncated, info = self.env.step(played)
        self.clock.lap("env")
        ended = terminated | truncated
        led_to = next_obs
        if ended.any():
            led_to = np.where(ended[:, None], info["final_obs"], next_obs)
        if not finite(reward, led_to, next_obs):  # the latter differ where an episode ended, and another began
            self.losses.check()  # a loss that was non-finite before is the cause, and is named instead
            wrong = "observation" if finite(reward) else "reward"
            raise NonFinite(wrong, self.agent.updates)
        to = torch.from_numpy
        self.replay.add(obs, action, to(reward), to(terminated), to(truncated), to(led_to))
        if isinstance(self.agent.data, Rollout):
            self.replay.keep(kept | {name: to(np.asarray(info[name])) for name in self.agent.data.infos})
        self.episode_return += reward
        for i in range(self.copies):
            self.history[i].append(played[i].copy())  # an agent may give the same memory again
            if ended[i]:
                self.finished_returns.append(float(self.episode_return[i]))
                self.episode_return[i] = 0.0
                self.history[i] = []
        self.obs = next_obs
        self.clock.lap("store")

    def _update(self) -> None:
        batch = self.replay.sample(self.generators["replay"])
        due = self.agent.due()
        noise = {p.name: self._noise(p.name, batch.reward.numel()) for p in due}
        self.clock.lap("sample")
        info = self.agent.update(batch, noise, self._timed_phase)
        self.latest.update(info)
        self.losses.note(info, self.agent.updates)
        self.clock.updates += 1
        self.clock.lap("log")

    def _noise(self, phase: str, n: int) -> dict[str, torch.Tensor]:
        return sample(self.agent.draws(phase, n), self.generators["noise"], self.device)

    def _timed_phase(self, phase, batch, noise):
        info = self.run_phase(phase, batch, noise)
        self.clock.lap(phase.name)
        return info

    # -- records -------------------------------------------------------------------------------------------------------
    def _log(self) -> None:
        self.losses.check()
        record: dict[str, Any] = {"env_step": self.env_step, "update": self.agent.updates}
        if self.env_step == 0:
            # how wide the untrained policy acts: one that starts on the bounds makes a method look worse than it is
            record |= self.probes.spread()
        if self.latest:
            metrics = self.agent.diagnose(self.latest)
            if taken := metrics.keys() & {*record, EPISODES}:
                raise ValueError(f"{min(taken)!r} is a name of the log's own; return what it names under another")
            values = torch.stack([value.detach().float().cpu() for value in metrics.values()])
            record |= dict(zip(metrics, values.tolist(), strict=True))
        for name, value in record.items():
            if not math.isfinite(value):
                raise NonFinite(name, self.agent.updates)
        if self.finished_returns:
            record[EPISODES] = float(np.mean(self.finished_returns))
            self.finished_returns = []
        self.dir.append("metrics.jsonl", record)
        self.clock.lap("log")
        self._append_clock()

    def _evaluation(self) -> int:
        """The number of the evaluation at this step, which gives its episodes: of the interval that begins here, or, at an
        end between two, of the next one. From the step alone, so that a run whose steps are raised keeps to a direct one's."""
        every = self.config.eval_every
        return self.env_step // every + (self.env_step % every >= self.config.frames_per_decision)

    def _evaluate(self) -> None:
        self.losses.check()  # the cause of what an evaluation would find, and named in its place
        number = self._evaluation()
        result = self.evaluator.play(self.agent, number, self._interrupted)
        if result is None:
            return  # stopped: it is still due, and made when the run goes on
        self.eval_due = False
        self.probes.draw(self.agent, number, self.env_step, last=self.env_step >= self.config.steps)
        for name, values in ({"return": result["returns"]} | result.get("scores", {})).items():
            if not all(map(math.isfinite, values)):
                raise NonFinite(f"evaluation {name}", self.agent.updates)
        self.last_return = float(np.mean(result["returns"]))
        self.dir.append("evals.jsonl", {"env_step": self.env_step, "update": self.agent.updates} | result)
        if self.probes.steps:
            buffer = io.BytesIO()
            np.savez(buffer, **self.probes.arrays())
            replace_file(self.path / "probes.npz", buffer.getvalue())
        self.clock.lap("eval")
        self._append_clock()
        self._progress("running")

    def _append_clock(self) -> None:
        here = {"env_step": self.env_step, "update": self.agent.updates}
        self.dir.append("clock.jsonl", here | self.clock.record())
        if self.env_step:  # before, agents were built, whose layers may draw what is overwritten
            self.global_draws.check(self.env_step)
        self._mirror()
        self.global_draws.look()  # a mirror may draw what it likes

    def _mirror(self, end: bool = False) -> None:
        """Follow the records. No failure of a mirror (a lost server, say) is one of the run: it is said, and left out."""
        if self.mirror is None:
            return
        try:
            self.mirror.close() if end else self.mirror.follow()
        except Exception as error:
            print(f"warning: logger={self.config.logger} gave up ({type(error).__name__}: {error})", file=sys.stderr)
            self.mirror = None
        self.clock.lap("log")

    def close(self) -> None:
        self._mirror(end=True)
        self.env.close()
        self.evaluator.close()

    def _heartbeat(self) -> bool:
        due = time.time() - self._beat >= HEARTBEAT
        if due:
            self._progress("running")
        return due

    def _interrupted(self) -> bool:
        self._heartbeat()
        return self.stop

    def _progress(self, state: str) -> None:
        now = time.time()
        since, frames = self._rate
        self._beat = now
        rate = (self.env_step - frames) / (now - since) if now > since else 0.0
        if now - since > 30:
            self._rate = (now, self.env_step)
        record = {
            "state": state, "env_step": self.env_step, "steps": self.config.steps, "update": self.agent.updates,
            "return": self.last_return, "sps": round(rate, 1), "time": now, "pid": os.getpid(), "host": socket.gethostname(),
        }  # fmt: skip
        self.dir.write_progress(record)

    def _finish(self) -> None:
        self.losses.check()
        self.checkpoint()
        self.dir.write_json("cost.json", (self._counted() or {}) | {"peak_memory_mb": self.clock.rss_mb})
        self._progress("done")
        done = {"env_step": self.env_step, "update": self.agent.updates, "steps": self.config.steps, "time": time.time()}
        self.dir.mark_done(done)
        if not self.config.keep_replay:  # after DONE: a run killed before it still needs the replay
            shutil.rmtree(self.path / "replay", ignore_errors=True)

    # -- checkpoints ---------------------------------------------------------------------------------------------------
    def checkpoint(self) -> None:
        """Everything an exact continuation needs: new replay rows first, then the state that counts on them."""
        self.losses.check()
        self.clock.lap("checkpoint")
        (self.path / "replay").mkdir(exist_ok=True)
        rows = self.replay.rows_since(self.stored_rows)
        if rows:
            first = self.replay.added - len(rows["reward"])
            save_tensors(self.path / "replay" / f"{first:012d}.pt", {"first": first, **rows})
            self.stored_rows = self.replay.added
        agent = self.agent.state_dict()
        state = {
            "identity": identity(self.config),
            "agent": agent,
            "generators": {name: generator.get_state() for name, generator in self.generators.items()},
            "counters": {
                "env_step": self.env_step, "eval_due": self.eval_due,
                "finished_returns": self.finished_returns, "episode_return": self.episode_return.tolist(),
                "last_return": self.last_return, "rows": self.replay.added,
            },
            "env": {
                "episodes": [int(e) for e in self.env.episodes],
                "actions": [torch.from_numpy(np.asarray(h, np.float32)) for h in self.history],
                "obs": torch.from_numpy(self.obs),
            },
            "latest": self.latest,
            "offsets": self.dir.offsets(),
            "clock": self.clock.state(),
        }  # fmt: skip
        save_tensors(self.path / "checkpoint.pt", state)
        policy = {name: part for name, part in agent.items() if name not in self.agent.optimizers()}
        save_tensors(self.path / "policy.pt", {"algo": self.config.algo, "spec": self.spec.to_dict(), "agent": policy})
        self.clock.lap("checkpoint")

    def _restore(self, state: dict[str, Any], probed: list[tuple[int, np.ndarray]]) -> None:
        counters, env = state["counters"], state["env"]
        self.dir.cut_back(state["offsets"])
        self.agent.load_state_dict(state["agent"])
        for name, value in state["generators"].items():
            self.generators[name].set_state(value)
        self.env_step, self.eval_due = counters["env_step"], counters["eval_due"]
        self.finished_returns = list(counters["finished_returns"])
        self.episode_return = np.asarray(counters["episode_return"])
        self.last_return = counters["last_return"]
        self.latest = {name: value.to(self.device) for name, value in state["latest"].items()}
        for step, actions in probed:
            if step < self.env_step or (step == self.env_step and not self.eval_due):  # one that is due is drawn again
                self.probes.steps.append(step)
                self.probes.actions.append(actions)
        self.history = [list(actions.numpy()) for actions in env["actions"]]
        self.obs = self.env.resume(env["episodes"], self.history)
        if not np.array_equal(self.obs, env["obs"].numpy()):
            raise RuntimeError(
                f"{self.config.env['id']} did not return to the observation of the checkpoint when its episode was "
                "played again: it is not deterministic here, or another version of it"
            )
        self.clock = self.new_clock(**state["clock"])

    def _restore_replay(self, rows: int) -> None:
        known = 0  # rows so far; those that the ring has dropped may be gone
        for piece in sorted((self.path / "replay").glob("*.pt")):
            data = load_tensors(piece, "first", "reward")
            first = data.pop("first")
            if first >= rows:
                piece.unlink()  # written after the checkpoint
                continue
            if first > max(known, rows - self.replay.rows):
                self._lacks_rows(known, first)
            self.replay.put_rows(first, data)
            known = self.replay.added
        if known != rows:
            self._lacks_rows(known, rows)
        self.stored_rows = rows

    def _lacks_rows(self, first: int, end: int) -> None:
        raise UsageError(
            f"{self.path / 'replay'} lacks rows {first} to {end}, on which the checkpoint counts; put the missing pieces back "
            "or choose another --name"
        )

    def _stored_probes(self) -> list[tuple[int, np.ndarray]]:
        """Frames and sampled actions of the evaluations so far."""
        path = self.path / "probes.npz"
        if not path.exists():
            return []
        try:
            with np.load(path) as stored:
                return list(zip(stored["env_step"].tolist(), stored["actions"], strict=True))
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UsageError(
                f"{path} cannot be read ({type(error).__name__}); put it back, or remove it to go on without the actions that "
                "were sampled so far"
            ) from error


def run(config: RunConfig, path: Path, session: dict[str, Any] | None = None, stopper=None) -> str:
    """Run one cell to its end: returns "done", "stopped", "disk full" or "failed", with the marks in its directory.

    stopper: called with the Run, to let a signal handler set its `stop`.
    """
    directory = RunDir(path)
    try:
        return attempt(config, directory, session, stopper)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        # no failure of the run: it goes on from its last checkpoint once there is space, like one that was killed
        with contextlib.suppress(OSError):
            print(f"error: {path}: {error}; free some space and repeat the command", file=sys.stderr, flush=True)
        with contextlib.suppress(OSError):
            directory.write_progress((directory.progress() or {}) | {"state": "stopped", "time": time.time()})
        return "disk full"


def attempt(config: RunConfig, directory: RunDir, session: dict[str, Any] | None, stopper) -> str:
    """`run`, with an OSError for a full disk."""
    current: Run | None = None
    try:
        current = Run(config, directory, session)
        if stopper is not None:
            stopper(current)
        current.train()
    except Stopped:
        return "stopped"
    except UsageError:
        raise  # nothing of an earlier run was touched
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        checkpoint = directory.path / "checkpoint.pt"
        directory.mark_failed(
            {
                "error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
                "quantity": getattr(error, "quantity", None),
                "update": getattr(error, "update", current.agent.updates if current else None),
                "env_step": current.env_step if current else None,
                "checkpoint": checkpoint.name if checkpoint.exists() else None,
                "traceback": traceback.format_exc(),
                "time": time.time(),
            }
        )
        return "failed"
    finally:
        if current is not None:
            current.close()
    return "done"
