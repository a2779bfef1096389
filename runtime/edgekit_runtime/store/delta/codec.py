"""Compress and decompress the blocks of a delta, with old bytes as the dictionary."""

from __future__ import annotations

from typing import Any, Callable, Union

from edgekit_runtime.errors import MalformedBundle, StoreError

MAX_WINDOW_BYTES = 1 << 22  # more than a block and its dictionary


class Zstd:
    """Zstandard, from the package ``zstandard``.

    Raises:
        StoreError: the package is not installed.
    """

    block_bytes = 1 << 20  # of a block that a delta's maker encodes at once

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
        """Compress ``data`` with ``old`` as the dictionary."""
        dictionary = self._dictionary(old)
        content: bytes = self._zstd.ZstdCompressor(
            level=level, dict_data=dictionary, write_content_size=True, write_dict_id=False
        ).compress(bytes(data))
        return content

    def decompress(self, data: bytes, size_bytes: int, old: Any = b"") -> bytes:
        """Decompress to exactly ``size_bytes``.

        Raises:
            MalformedBundle: the data is invalid or has another size.
        """
        try:
            if self._zstd.frame_content_size(data) != size_bytes:  # checked before it is allocated
                raise MalformedBundle("a block of the delta does not have its declared size")
            dictionary = self._dictionary(old)
            decompressor = self._zstd.ZstdDecompressor(dict_data=dictionary, max_window_size=MAX_WINDOW_BYTES)
            content: bytes = decompressor.decompress(data, max_output_size=size_bytes, allow_extra_data=False)
        except self._zstd.ZstdError as error:
            raise MalformedBundle(f"a block of the delta cannot be decompressed: {error}") from error
        return content


class Zlib:
    """Deflate from the standard library, for boards without ``zstandard``."""

    block_bytes = 1 << 14  # a block and its dictionary must fit deflate's window of 32 KiB

    def compress(self, data: Any, old: Any = b"", level: int = 9) -> bytes:
        """Compress ``data`` with ``old`` as the dictionary."""
        import zlib

        options = {"zdict": bytes(old)} if old else {}
        compressor = zlib.compressobj(level, wbits=-15, **options)  # type: ignore[arg-type]
        return compressor.compress(bytes(data)) + compressor.flush()

    def decompress(self, data: bytes, size_bytes: int, old: Any = b"") -> bytes:
        """Decompress to exactly ``size_bytes``.

        Raises:
            MalformedBundle: the data is invalid or has another size.
        """
        import zlib

        options = {"zdict": bytes(old)} if old else {}
        try:
            decompressor = zlib.decompressobj(wbits=-15, **options)
            content = decompressor.decompress(data, size_bytes + 1)
        except zlib.error as error:
            raise MalformedBundle(f"a block of the delta cannot be decompressed: {error}") from error
        if len(content) != size_bytes or not decompressor.eof or decompressor.unused_data:
            raise MalformedBundle("a block of the delta does not have its declared size")
        return content


Codec = Union[Zstd, Zlib]
CODECS: dict[str, Callable[[], Codec]] = {"zstd": Zstd, "zlib": Zlib}
