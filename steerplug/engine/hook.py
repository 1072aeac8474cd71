"""The native hook of one context: what steers and captures during the next decode.

Python fills a table per decode (which terms belong to which row), native code (native/steer.c) does
the rest while llama.cpp evaluates, called by nodes of its graph or by its callback; or the devices
do it themselves (device_route.py). Hook state belongs to one context.
"""

import ctypes
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from steerplug.engine.block_output import BlockOutput
from steerplug.engine.capture import Capture
from steerplug.engine.device_route import PAST, DeviceRoute
from steerplug.engine.effects import NOT_FIRED, Effects, failure
from steerplug.engine.hook_state import TERM, hook_state
from steerplug.engine.left_out import LeftOut
from steerplug.engine.native import library
from steerplug.engine.row_steering import RowSteering as RowSteering
from steerplug.engine.row_steering import lay_out as lay_out
from steerplug.errors import EngineError, SteeringError
from steerplug.steering.value import Array

_L_OUT = BlockOutput()
_Table = tuple[tuple[RowSteering | None, ...], tuple[bool, ...], bool]


class Hook:
    """The state of the native callback of one context.

    Args:
        n_embd: width of the activations.
        n_layer: number of blocks.
        max_rows: rows of the largest batch.
        on_host: write tensors in place (host memory), or by get and set (any device).
        output: where the blocks' output is found.
        route: what steers on the devices, if they do so themselves.
    """

    def __init__(
        self,
        n_embd: int,
        n_layer: int,
        max_rows: int,
        *,
        on_host: bool,
        output: BlockOutput = _L_OUT,
        route: DeviceRoute | None = None,
    ) -> None:
        self.n_embd, self.n_layer, self.max_rows = n_embd, n_layer, max_rows
        n_copied = 0 if on_host or route else max_rows
        self._copy = np.zeros((n_copied, output.n_streams, n_embd), np.float32)
        self._delta, self._h = np.zeros((2, n_embd), np.float32)
        self._output = np.zeros(max_rows, np.uint8)
        self._watched = np.zeros(n_layer, np.uint8)
        self._first = np.zeros(max_rows + 1, np.int32)
        self._terms = np.zeros(max_rows, TERM)
        self._capture_layer = np.full(n_layer, -1, np.int32)
        self._capture_row = np.full(max_rows, -1, np.int32)
        self._moved = np.zeros(max_rows, np.float32)
        self._steered = np.zeros(max_rows, np.int32)
        self._seen = np.zeros(n_layer, np.int32)
        in_graph = on_host or route is not None
        self._state = hook_state(n_embd, n_layer, output, on_host=on_host, in_graph=in_graph)
        self.route = route
        if route:
            self._state.route = ctypes.addressof(route.state)
        for name in ("copy", "delta", "h", "output", "watched", "first", "terms", "capture_layer",
                     "capture_row", "moved", "steered", "seen"):
            setattr(self._state, name, getattr(self, f"_{name}").ctypes.data)
        self._table: _Table | None = None
        self._alive: tuple[RowSteering | None, ...] = ()
        self._given: Array | None = None
        self._left_out: LeftOut | None = None
        self._begin, self._stand_by = library().sp_begin, library().sp_stand_by
        self._end = library().sp_end
        self._late: list[Effects] = []
        self._is_told = True
        self.tells_later = False
        """Whether a decode may be accounted for later, see `untold`: so it is with up to 16, on
        devices that steer by themselves, where it does what the last one did."""
        self._reference = ctypes.byref(self._state)

    @property
    def callback(self) -> int:
        """Address of the evaluation callback, for `llama_context_params.cb_eval`."""
        return int(ctypes.cast(library().sp_eval, ctypes.c_void_p).value or 0)

    @property
    def user_data(self) -> int:
        """Address of the state, for `llama_context_params.cb_eval_user_data`."""
        return ctypes.addressof(self._state)

    @property
    def in_graph(self) -> bool:
        """Whether nodes of llama.cpp's graph are to call the native code, not the callback.

        It is tried wherever tensors are in host memory; see native/node.c.
        """
        return bool(self._state.in_graph)

    @in_graph.setter
    def in_graph(self, value: bool) -> None:
        self._state.in_graph = value

    @property
    def takes_given(self) -> bool:
        """Whether what left a block can be given: where nodes of the graph steer whole rows.

        It is false until llama.cpp has asked whether a graph serves again, a batch or two after the
        context was made.
        """
        state = self._state
        is_node = self.in_graph and not self.route and state.n_streams == 1
        return bool(is_node and state.sources_at >= 0 and state.is_asked)

    @property
    def seen(self) -> NDArray[np.int32]:
        """How often the last armed decode met each block, (n_layer,)."""
        return self._seen.copy()

    def effects(self) -> Effects:
        """Return what the last decode did to each row."""
        self.settle()
        return self._effects()

    def _effects(self, error: EngineError | None = None) -> Effects:
        n = self._state.n_rows
        if not self._state.applied:
            return Effects([0.0] * n, [0] * n, error)
        return Effects(self._moved[:n].tolist(), self._steered[:n].tolist(), error)

    def untold(self) -> list[Effects]:
        """Return what each decode did that is accounted for and was not told yet, oldest first."""
        told, self._late = self._late, []
        if not self._is_told:
            told.append(self._effects())
        self._is_told = True
        return told

    @property
    def tells_at_once(self) -> bool:
        """Whether every decode is accounted for as it ends."""
        return not (self.route and self.tells_later)

    def settle(self) -> None:
        """Account for the decodes that were left for later."""
        if not self.route or not (n := self.route.state.n_pending):
            return
        library().sp_recall(self._reference)
        for _ in range(n):
            status = library().sp_account(self._reference)
            self._late.append(self._effects(failure(status, self._state) if status else None))

    @property
    def applied(self) -> int:
        """How many (row, block) pairs the last decode steered."""
        self.settle()
        return int(self._state.applied)

    def arm(
        self,
        steering: Sequence[RowSteering | None],
        outputs: Sequence[bool],
        capture: Capture | None = None,
        *,
        watch_all: bool = False,
    ) -> Array | None:
        """Set up the next decode; return the array that will hold the captured activations.

        Args:
            steering: what steers each row, in batch order.
            outputs: for each row, whether its logits are asked for.
            capture: activations to hand over.
            watch_all: meet every block even where there is nothing to do, to count them.
        """
        table = (tuple(steering), tuple(outputs), watch_all)
        captured = None
        is_as_before = capture is None and table == self._table
        if self.route:
            self.route.state.later = later = self.tells_later and is_as_before
            if not later:
                self.settle()
        if not is_as_before:
            captured = self._fill(table, capture)
        self._begin(self._reference, len(steering))
        return captured

    def _fill(self, table: _Table, capture: Capture | None) -> Array | None:
        """Tell the state what to do; needless where the next token is steered like the last."""
        steering, outputs, watch_all = table
        self._table = None
        self._watched.fill(watch_all)
        self._check(steering)
        if self.route:
            self.route.ask(steering, outputs)
            if capture is not None:
                self.route.keep(capture.layers, len(outputs))
        self._output[: len(outputs)] = outputs
        self._fill_terms(steering)
        captured = self._fill_capture(capture, outputs) if capture is not None else None
        self._alive = steering  # the state points into these
        state = self._state
        self._given = self._rows_given(capture, len(outputs))
        state.given_il = -1 if capture is None or capture.given is None else capture.given.il
        state.given = None if self._given is None else self._given.ctypes.data
        state.captured = None if captured is None else captured.ctypes.data
        state.n_captured_rows = 0 if captured is None else captured.shape[1]
        state.last_il = max(capture.layers) if capture is not None and capture.only else -1
        self._table = table if capture is None else None
        return captured

    def _rows_given(self, capture: Capture | None, n_rows: int) -> Array | None:
        if capture is None or capture.given is None:
            return None
        given = np.ascontiguousarray(capture.given.rows, np.float32)
        if not self.takes_given or given.shape != (n_rows, self.n_embd):
            raise EngineError(
                f"{n_rows} rows cannot be given as {given.shape}; give {(n_rows, self.n_embd)}, "
                "where the hook `takes_given`."
            )
        if self._left_out is None:
            self._left_out = LeftOut(self.n_layer)
            self._state.left_out = self._left_out.address
        return given

    def stand_by(self, n_rows: int) -> None:
        """Report nothing steered for the next decode, in which there is nothing to do."""
        if self.route:
            self.settle()
            self._table, self.route.state.later = None, 0
            self.route.ask_nothing()
        self._stand_by(self._reference, n_rows)

    def _check(self, steering: Sequence[RowSteering | None]) -> None:
        for what in steering:
            if what and (what.n_embd, what.n_layer) != (self.n_embd, self.n_layer):
                raise SteeringError(
                    f"the steering is for {what.n_layer} blocks of {what.n_embd} values, the "
                    f"model has {self.n_layer} of {self.n_embd}; build it for this model."
                )

    def _fill_terms(self, steering: Sequence[RowSteering | None]) -> None:
        first = self._first
        terms: list[tuple[int, float]] = []
        layers: set[int] = set()
        for row, what in enumerate(steering):
            if what is not None:
                terms.extend(what.terms)
                layers |= what.layers
            first[row + 1] = len(terms)
        if len(terms) > len(self._terms):
            self._terms = np.zeros(2 * len(terms), TERM)
            self._state.terms = self._terms.ctypes.data
        self._terms[: len(terms)] = terms
        self._watched[list(layers)] = 1

    def _fill_capture(self, capture: Capture, outputs: Sequence[bool]) -> Array:
        capture.check(outputs, self.n_layer)
        self._capture_layer.fill(-1)
        self._capture_row.fill(-1)
        self._capture_layer[list(capture.layers)] = np.arange(len(capture.layers))
        self._capture_row[list(capture.rows)] = np.arange(len(capture.rows))
        self._watched[list(capture.layers)] = 1
        return np.zeros((len(capture.layers), len(capture.rows), self.n_embd), np.float32)

    def disarm(self, *, decoded: bool = True) -> None:
        """End the decode, armed or not.

        Args:
            decoded: whether llama.cpp evaluated the batch; if not, steering cannot have happened.

        Raises:
            EngineError: steering failed, or did not happen.
        """
        status = self._end(self._reference, decoded)
        n_pending = self.route.state.n_pending if self.route else 0
        self._is_told = not decoded or bool(status) or n_pending > 0
        if status and (decoded or status != NOT_FIRED):
            error = failure(status, self._state)
            self.settle()
            raise error
        if n_pending == PAST:
            self.settle()
