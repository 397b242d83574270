"""Vectorised environments behind one small split-phase interface; numpy only, no learning here."""
