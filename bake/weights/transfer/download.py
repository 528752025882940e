"""A resumable download over several connections that is hashed while it runs.

Connections take neighbouring segments in order, so the hash follows close behind the newest byte and
no second pass over the file is needed. Whatever interrupts it, the bytes that came stay for next time.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from bake.weights.transfer.judge import (
    Options,
    RestartError,
    judge_lead,
    judge_segment,
    wrong_size,
)
from bake.weights.transfer.partial import PartFile, PrefixHasher, write_all
from bake.weights.transfer.patience import MAX_LONE_FAILURES, Pace, Patience
from bake.weights.transfer.remote import Remote
from bake.weights.transfer.segments import ENDLESS, Pass, TooManyError
from runtime.files.answers import RetryableError, refuse_start, stalled, validator_of
from runtime.files.errors import WeightsError
from runtime.files.policy import show_url

READ_BYTES = 256 << 10
FIRST_CHECKPOINT_S = 1.0
CHECKPOINT_S = 5.0
MAX_RESTARTS = 5


class Download:
    """One download into one part file. `run` may be called once."""

    def __init__(self, remote: Remote, part: PartFile, options: Options) -> None:
        self.remote = remote
        self.part = part
        self.options = options
        self.resumed_bytes = 0
        """Bytes that an earlier attempt had left."""
        self._pass = Pass(part, options)
        self._received = 0
        self._reported = 0

    def run(self) -> str:
        """Downloads what is missing and gives the SHA256 of the whole, which the caller compares.

        Raises:
            WeightsError: the part file stays for the next attempt where its bytes can be of use.
        """
        self.part.load(size_bytes=self.options.size_bytes)
        self.resumed_bytes = self.part.done.total
        for restarts in range(MAX_RESTARTS + 1):
            try:
                return self._run_pass()
            except RestartError as error:
                reason = error
            self.resumed_bytes = 0
            self.part.reset()
            self.part.size_bytes = self.options.size_bytes
            # The old one is stopped: no pause outlives it.
            self._pass = Pass(self.part, self.options)
            self._sleep(self.options.retry.backoff_s * restarts)
        raise WeightsError(
            "connection",
            f"given up after {MAX_RESTARTS + 1} starts from the first byte: {reason}",
            where=show_url(self.remote.url),
        )

    def _run_pass(self) -> str:
        self._pass = Pass(self.part, self.options)
        hasher = PrefixHasher(self.part)
        hasher.start()
        threads: list[threading.Thread] = []
        try:
            self._report()
            lead = self._open_lead()
            if lead is not None:
                threads = self._start_workers(*lead)
                self._watch(threads)
            digest = hasher.result()
        except RestartError:
            self._stop(threads)
            for thread in threads:
                thread.join()
            raise
        except BaseException:
            self._stop(threads)
            with contextlib.suppress(WeightsError):
                self.part.checkpoint()
            raise
        finally:
            hasher.stop()
        self.part.finish()
        return digest

    # --- the first answer says how long the file is and whether it comes in ranges ---

    def _open_lead(self) -> tuple[requests.Response, int, int | None] | None:
        size = self.part.size_bytes
        segment = self.options.segment_bytes if self.options.connections > 1 else ENDLESS
        start, end = 0, (None if segment == ENDLESS else segment)
        if size is not None:
            gap = self.part.done.first_gap(size)
            if gap is None:
                return None
            start, end = gap[0], min(gap[1], gap[0] + segment)
        patience = self._patience()
        while True:
            try:
                response = self.remote.open_range(start, end)
            except RetryableError as failure:
                self._pause(failure, patience)
                continue
            try:
                return response, start, self._accept_lead(response, start)
            except BaseException:
                response.close()
                raise

    def _accept_lead(self, response: requests.Response, start: int) -> int | None:
        lead = judge_lead(response, start, self.options, self.remote.url)
        self._pass.has_ranges = lead.has_ranges
        if lead.total is not None:
            if self.part.size_bytes not in (None, lead.total):
                raise RestartError("the file has changed its length")
            self._compare_validator(response)
            if self.options.on_size is not None:
                self.options.on_size(lead.total)
            self.part.reserve(lead.total)
        return lead.ends_at

    def _compare_validator(self, response: requests.Response) -> None:
        """Without a digest, bytes of two versions of a file must never be mixed."""
        if self.options.sha256 is not None:
            return
        validator = validator_of(response)
        with self.part.lock:
            if not self.part.done.total and self.part.validator is None:
                self.part.validator = validator
            elif validator is None or self.part.validator != validator:
                raise RestartError("the file may have changed")

    # --- workers ---

    def _start_workers(
        self, lead: requests.Response, start: int, end: int | None
    ) -> list[threading.Thread]:
        count = self.options.connections if self._pass.has_ranges else 1
        self._pass.begin(count, start, end)
        first = threading.Thread(target=self._work, args=(0, lead, start, end), daemon=True)
        others = [
            threading.Thread(target=self._work, args=(number,), daemon=True)
            for number in range(1, count)
        ]
        threads = [first, *others]
        for thread in threads:
            thread.start()
        return threads

    def _work(
        self,
        number: int,
        lead: requests.Response | None = None,
        start: int = 0,
        end: int | None = None,
    ) -> None:
        handle = None
        try:
            handle = self.part.open_for_writing()
            if lead is not None:
                self._fill(number, handle, lead, start, end)
            while (segment := self._pass.next_segment(number)) is not None:
                self._fill(number, handle, None, *segment)
        except TooManyError:
            pass
        except BaseException as error:  # noqa: BLE001  # it is raised again in the calling thread
            self._pass.fail(error)
        finally:
            if handle is not None:
                os.close(handle)
            self._pass.leave(number)

    def _fill(
        self,
        number: int,
        handle: int,
        response: requests.Response | None,
        start: int,
        end: int | None,
    ) -> None:
        """Gets one segment, however many attempts that takes."""
        at = start
        patience = self._patience()
        while end is None or at < end:
            try:
                if response is None:
                    response = self._open_segment(at, end)
                at = self._transfer(handle, response, at, end)
                if end is None:
                    self._end_at(at)
                    return
            except RetryableError as failure:
                if not self._pass.has_ranges:
                    raise RestartError(failure.failure.what) from failure
                if failure.reached is not None and failure.reached > at:
                    at, patience = failure.reached, self._patience()
                self._pass.give_back(number, at, end, patience.is_alone_in_failing)
                self._pause(failure, patience)
            except WeightsError as error:
                self._pass.give_back(number, at, end, error.kind == "quota")
                if error.kind != "quota" or self.options.connections == 1:
                    raise
                # The source counts connections, and may count those that have ended a while longer.
                self._pause(RetryableError(error, attempts=MAX_LONE_FAILURES + 1), patience)
            response = None

    def _open_segment(self, start: int, end: int | None) -> requests.Response:
        response = self.remote.open_range(start, end)
        try:
            size = self.part.size_bytes or 0
            judge_segment(response, start, size, self.options, self.remote.url)
            self._compare_validator(response)
        except BaseException:
            response.close()
            raise
        return response

    def _end_at(self, at: int) -> None:
        """Takes the end of a body of unknown length as the end of the file."""
        expected = self.options.size_bytes
        if expected is not None and at < expected:
            raise RestartError("the connection broke")
        if at == 0:
            raise WeightsError("not_weights", "the file is empty", where=show_url(self.remote.url))
        if expected is not None and at > expected:
            raise wrong_size(at, self.options, self.remote.url)
        with self.part.lock:
            self.part.size_bytes = at
            self.part.lock.notify_all()

    def _transfer(
        self, handle: int, response: requests.Response, start: int, end: int | None
    ) -> int:
        """Writes what a response sends; gives the offset after its last byte."""
        at = start
        with self.part.lock:
            self._pass.live[threading.get_ident()] = response
        pace = Pace(self.remote.client.timeouts.stall_s)
        try:
            while end is None or at < end:
                self._check_going()
                chunk = response.raw.read1(READ_BYTES, decode_content=False)
                if not chunk:
                    break
                at += self._write(handle, chunk if end is None else chunk[: end - at], at)
                pace.count(len(chunk), self.remote.url)
        except (HTTPError, OSError, RetryableError) as error:
            raise self._interrupted(error, at) from error
        finally:
            with self.part.lock:
                self._pass.live.pop(threading.get_ident(), None)
            if response.raw.length_remaining == 0:
                response.raw.release_conn()
            else:
                response.close()
        if end is not None and at < end:
            raise self._interrupted(None, at)
        return at

    def _write(self, handle: int, chunk: bytes, at: int) -> int:
        if at == 0:
            refuse_start(chunk, self.remote.url)
        write_all(handle, chunk, at, self.part.path)
        self._received += len(chunk)
        self.part.record(at, at + len(chunk))
        return len(chunk)

    def _interrupted(self, error: Exception | None, at: int) -> RetryableError:
        """A failure in mid-transfer, with the offset at which the next attempt goes on."""
        if isinstance(error, RetryableError):
            failure = error
        elif isinstance(error, (ReadTimeoutError, TimeoutError)):
            failure = RetryableError(stalled(self.remote.url))
        else:
            failure = RetryableError(
                WeightsError("connection", "the connection broke", where=show_url(self.remote.url))
            )
        failure.reached = at
        return failure

    # --- pauses, progress, the end ---

    def _patience(self) -> Patience:
        return Patience(retry=self.options.retry)

    def _pause(self, failure: RetryableError, patience: Patience) -> None:
        """Waits before another attempt; raises the failure itself when nothing has come for too long."""
        wait_s = patience.note(failure, self._received)
        if self.options.on_retry is not None:
            self.options.on_retry(failure.failure, wait_s)
        self._sleep(wait_s)

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._check_going()
            time.sleep(min(left, 0.2))

    def _check_going(self) -> None:
        if self._pass.stopped:
            raise WeightsError("stopped", "the download was stopped")

    def _watch(self, threads: list[threading.Thread]) -> None:
        checkpoint_at = time.monotonic() + FIRST_CHECKPOINT_S
        while True:
            self._pass.changed.wait(0.2)
            self._pass.changed.clear()
            with self.part.lock:
                active, failure = bool(self._pass.active), self._pass.failure
            self._report()
            if failure is not None:
                raise failure
            if not active:
                break
            if time.monotonic() > checkpoint_at:
                self.part.checkpoint()
                checkpoint_at = time.monotonic() + CHECKPOINT_S
        for thread in threads:
            thread.join()
        if self.part.done.prefix != self.part.size_bytes:
            raise RestartError("a part of the file is missing")

    def _report(self) -> None:
        if self.options.on_bytes is not None:
            with self.part.lock:
                total = self.part.done.total
            self.options.on_bytes(total - self._reported)
            self._reported = total

    def _stop(self, threads: list[threading.Thread]) -> None:
        """Wakes and ends the workers. One that still waits for an answer writes nothing after it."""
        with self.part.lock:
            self._pass.stopped = True
            live = list(self._pass.live.values())
        for response in live:
            # `shutdown` wakes a thread that waits for bytes; urllib3 has it since 2.3.
            with contextlib.suppress(AttributeError, RuntimeError, ValueError, OSError):
                response.raw.shutdown()
        for thread in threads:
            thread.join(timeout=2.0)


def run_download(remote: Remote, part: PartFile, options: Options) -> str:
    """Runs one download and compares its digest; a wrong file is thrown away.

    If bytes of an earlier attempt were part of a wrong result, the fault may be theirs: the file is
    downloaded once more from its first byte before the server is blamed.
    """
    for _ in range(2):
        download = Download(remote, part, options)
        try:
            found = download.run()
        except WeightsError as error:
            is_other = error.kind in ("page", "size", "not_weights")
            if is_other or not part.done.total:  # room that was reserved for nothing is given back
                part.reset()
            raise
        if options.sha256 in (None, found):
            return found
        part.reset()
        if not download.resumed_bytes:
            break
    raise WeightsError(
        "hash",
        f"the server sent a file with SHA256 {found}, {options.sha256} was expected",
        where=show_url(remote.url),
    )
