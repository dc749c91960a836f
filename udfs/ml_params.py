"""`ClipTransformer`: an encoder's options as Params of Spark ML, checked together, saved as Spark ML saves them."""

from __future__ import annotations

import dataclasses
import os
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pyspark.ml import Transformer
from pyspark.ml.param import Param, Params
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsReader, DefaultParamsWritable, DefaultParamsWriter
from pyspark.sql import DataFrame
from pyspark.sql import types as T
from pyspark.sql.utils import is_remote

from ..errors import SpecError
from ..messages import setting
from ..models.spec import EncoderSpec
from ..models.spec_help import descriptions
from .driver import spec_of


def plain(value: Any) -> Any:
    """Return a Param's value as JSON has it: what Spark ML saves.

    Raises:
        TypeError: If JSON cannot hold it.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, EncoderSpec | type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(
        f"{value!r} is {type(value).__name__}, and Spark ML saves texts, numbers, lists and maps"
        + (": setParams(model=…) takes a spec" if isinstance(value, EncoderSpec) else "")
    )


class ClipTransformer(Transformer, DefaultParamsReadable[Any], DefaultParamsWritable):
    """A stage of a Spark ML pipeline that runs an encoder. Each field of `EncoderSpec` is a Param of its name."""

    model: Param[str]
    _own: ClassVar[Mapping[str, Any]]
    """Params beside the spec's, with their defaults. Those without one are left out."""

    def __init__(self) -> None:
        """Set the defaults."""
        super().__init__()
        self._setDefault(**EncoderSpec().as_dict(), **self._own)

    def setParams(self, **params: Any) -> Self:
        """Set Params by name, and check them together with those that were set before.

        Paths become absolute, and a file of labels is read. `model` may be an `EncoderSpec`, of which every field is
        set. (Spark's own `set` and `copy` take one Param at a time; their values are checked by `transform`.)

        Raises:
            SpecError: If the values cannot work; nothing is set then.
            TypeError: If there is no such Param.
        """
        spec_names = EncoderSpec.__dataclass_fields__
        own = {name: value for name, value in params.items() if self.hasParam(name) and name not in spec_names}
        options = {name: value for name, value in params.items() if name not in own}
        given = options.pop("model", None)
        base = given if isinstance(given, EncoderSpec) else EncoderSpec.of(given, **self._options(given is None))
        spec = spec_of(base, options, type(self).__init__)
        checked = self.copy()
        checked._set(**spec.as_dict(), **own)
        values = {name: plain(value) for name, value in {**spec.as_dict(), **own, **checked._checked(spec)}.items()}
        self._set(**{name: value for name, value in values.items() if not self._has(name, value)})
        return self

    def spec(self) -> EncoderSpec:
        """Return the encoder that the Params describe.

        Raises:
            SpecError: If they cannot work together.
        """
        return EncoderSpec(**self._options())

    @abstractmethod
    def transformSchema(self, schema: T.StructType) -> T.StructType:
        """Check the columns of a schema, and return it with what `transform` adds. Starts no job.

        Raises:
            SpecError: If a column is missing, holds what cannot be embedded, or would be overwritten.
        """

    @abstractmethod
    def _checked(self, spec: EncoderSpec) -> dict[str, Any]:
        """Check the own Params that are set; return those that become something else when they are checked."""

    def write(self) -> DefaultParamsWriter:
        """Return a writer of the Params, defaults among them: a later version's defaults change nothing."""
        _check_version()
        return _Writer(self.copy().setParams())

    @classmethod
    def read(cls) -> DefaultParamsReader[Any]:
        """Return a reader of what `write` has saved."""
        _check_version()
        return DefaultParamsReader(cls)

    def _options(self, with_model: bool = True) -> dict[str, Any]:
        return self._values(*(name for name in EncoderSpec.__dataclass_fields__ if with_model or name != "model"))

    def _values(self, *names: str) -> dict[str, Any]:
        return {name: self.getOrDefault(name) for name in names}

    def _has(self, name: str, value: Any) -> bool:
        return self.isDefined(name) and bool(self.getOrDefault(name) == value)

    def _required(self, name: str) -> Any:
        value = self.getOrDefault(name) if self.isDefined(name) else None
        if value is None:
            raise SpecError(f"{type(self).__name__} has no {name}", hint=f"set it: setParams({setting(name, ...)})")
        return value

    def _transform(self, dataset: DataFrame) -> DataFrame:
        raise NotImplementedError


for _name, _text in descriptions().items():
    setattr(ClipTransformer, _name, Param(Params._dummy(), _name, _text, plain))


class _Writer(DefaultParamsWriter):
    def _handleOverwrite(self, path: str) -> None:
        if not is_remote():
            super()._handleOverwrite(path)
            return
        from pyspark.ml.connect.readwrite import RemoteMLWriter  # what pipelines use on Spark Connect

        RemoteMLWriter.handleOverwrite(path, True)


def _check_version() -> None:
    """Refuse Spark Connect before 4.0, whose ML cannot save or load stages in Python."""
    import pyspark

    if is_remote() and int(pyspark.__version__.split(".")[0]) < 4:
        raise SpecError(
            f"Spark Connect {pyspark.__version__} can neither save nor load stages of Spark ML",
            hint="use Spark 4.0 or newer, or a classic session",
        )
