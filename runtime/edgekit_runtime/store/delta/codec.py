"""How a delta's stretches are compressed: with a stretch of the old file as dictionary, and into a known size."""

from __future__ import annotations

from typing import Any, Callable, Union

from edgekit_runtime.errors import MalformedBundle, StoreError

MAX_WINDOW_BYTES = 1 << 22  # a stretch and its dictionary, with room


class Zstd:
    """Zstandard, by the package ``zstandard``.

    Raises:
        StoreError: it is not installed.
    """

    def __init__(self) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise StoreError(
                "the delta is compressed with zstd, and the package zstandard is not installed: pip install "
                "'edgekit-runtime[delta]', install the whole bundle, or make the delta with --codec zlib"
            ) from error
        self._zstd = zstandard

    def _dictionary(self, old: Any) -> Any:
        return self._zstd.ZstdCompressionDict(bytes(old), dict_type=self._zstd.DICT_TYPE_RAWCONTENT) if old else None

    def compress(self, data: Any, old: Any = b"", level: int = 19) -> bytes:
        """Compress; ``old`` is the dictionary."""
        dictionary = self._dictionary(old)
        made: bytes = self._zstd.ZstdCompressor(
            level=level, dict_data=dictionary, write_content_size=True, write_dict_id=False
        ).compress(bytes(data))
        return made

    def expand(self, data: bytes, size_bytes: int, old: Any = b"") -> bytes:
        """Expand to exactly so many bytes.

        Raises:
            MalformedBundle: it is anything else.
        """
        try:
            if self._zstd.frame_content_size(data) != size_bytes:  # what would be allocated
                raise MalformedBundle("a stretch of the delta has another size than it says")
            dictionary = self._dictionary(old)
            reader = self._zstd.ZstdDecompressor(dict_data=dictionary, max_window_size=MAX_WINDOW_BYTES)
            made: bytes = reader.decompress(data, max_output_size=size_bytes, allow_extra_data=False)
        except self._zstd.ZstdError as error:
            raise MalformedBundle(f"a stretch of the delta cannot be expanded: {error}") from error
        return made


class Zlib:
    """Deflate, by the standard library, for boards that have nothing else; its dictionaries end after 32 KiB."""

    def compress(self, data: Any, old: Any = b"", level: int = 9) -> bytes:
        """Compress; ``old`` is the dictionary."""
        import zlib

        told = {"zdict": bytes(old)} if old else {}
        packer = zlib.compressobj(level, wbits=-15, **told)  # type: ignore[arg-type]
        return packer.compress(bytes(data)) + packer.flush()

    def expand(self, data: bytes, size_bytes: int, old: Any = b"") -> bytes:
        """Expand to exactly so many bytes.

        Raises:
            MalformedBundle: it is anything else.
        """
        import zlib

        told = {"zdict": bytes(old)} if old else {}
        try:
            reader = zlib.decompressobj(wbits=-15, **told)
            made = reader.decompress(data, size_bytes + 1)
        except zlib.error as error:
            raise MalformedBundle(f"a stretch of the delta cannot be expanded: {error}") from error
        if len(made) != size_bytes or not reader.eof or reader.unused_data:
            raise MalformedBundle("a stretch of the delta has another size than it says")
        return made


Codec = Union[Zstd, Zlib]
CODECS: dict[str, Callable[[], Codec]] = {"zstd": Zstd, "zlib": Zlib}
