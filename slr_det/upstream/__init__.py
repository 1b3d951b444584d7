"""Do the checkouts that adapters drive still have what they rely on? The parts of ``slr-det upstream check``.

An adapter says what it relies on as data (:mod:`slr_det.upstream.project`): seams, which are read off the sources
(:mod:`slr_det.upstream.seams`), and contracts, which are run (:mod:`slr_det.upstream.suite`).
"""
