"""The ranks that there are: 2 for images, 3 for volumes."""

SPATIAL_DIMS = (2, 3)


def check_spatial_dims(spatial_dims: int) -> int:
    """Return ``spatial_dims``; raise ``ValueError`` unless it is 2 or 3."""
    if spatial_dims not in SPATIAL_DIMS:
        raise ValueError(
            f'spatial_dims must be 2 (images) or 3 (volumes), '
            f'got {spatial_dims!r}'
        )
    return spatial_dims
