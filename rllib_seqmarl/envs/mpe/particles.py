"""Discs in the plane that push each other apart: the physics of E particle envs.

Lowe et al. 2017 (OpenAI's multi-agent particle environments) and their successor mpe2 share it
up to one line: OpenAI's code moves a disc with its new velocity, mpe2 with its old one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TIME_STEP = 0.1
DAMPING = 0.25
CONTACT_FORCE = 100.0
CONTACT_MARGIN = 1e-3

Reals = NDArray[np.float64]


class Particles:
    """E envs of P discs of mass 1, of which the first M move and the first C collide.

    Attributes:
        positions: float64 [E, P, 2].
        velocities: float64 [E, M, 2].
        offsets: float64 [E, M, P, 2], from each moving disc to every disc.
        distances: float64 [E, M, P], between centres.
        contact: float64 [M, P], the distance below which two discs touch.
    """

    def __init__(
        self,
        num_envs: int,
        radii: Reals,
        num_moving: int,
        num_colliding: int,
        max_speed: Reals | None,
        old_velocity: bool,
    ) -> None:
        """Places all discs at the origin; call :meth:`measure` when they have been placed.

        Args:
            num_envs: E.
            radii: [P].
            num_moving: M.
            num_colliding: C, at least M.
            max_speed: [M] per second, None for no limit.
            old_velocity: positions move with the velocity from before the step (mpe2), not
                with the one after it (OpenAI).
        """
        discs = len(radii)
        self.positions = np.zeros((num_envs, discs, 2))
        self.velocities = np.zeros((num_envs, num_moving, 2))
        self.offsets = np.zeros((num_envs, num_moving, discs, 2))
        self.distances = np.zeros((num_envs, num_moving, discs))
        self.contact = radii[:num_moving, None] + radii
        self._old_velocity = old_velocity
        self._max_speed = max_speed
        self._own = np.eye(num_moving, num_colliding)
        # A disc does not push itself: at a contact distance of -inf the force is zero.
        self._push_distance = np.where(self._own, -np.inf, self.contact[:, :num_colliding])
        self._pushing_offsets = self.offsets[:, :, :num_colliding]
        self._pushing_distances = self.distances[:, :, :num_colliding]

    def measure(self) -> None:
        """Brings ``offsets`` and ``distances`` up to date with ``positions``."""
        moving = self.positions[:, : self.velocities.shape[1]]
        np.subtract(self.positions[:, None], moving[:, :, None], out=self.offsets)
        squares = np.einsum("empx,empx->emp", self.offsets, self.offsets)
        np.sqrt(squares, out=self.distances)

    def step(self, forces: Reals, frozen: NDArray[np.bool_] | None) -> None:
        """Moves every env by ``TIME_STEP`` seconds, except the frozen ones.

        Args:
            forces: [E, M, 2], what drives the moving discs beside their contacts.
            frozen: bool [E], or None.
        """
        overlap = (self._push_distance - self._pushing_distances) / CONTACT_MARGIN  # [E, M, C]
        push = (CONTACT_FORCE * CONTACT_MARGIN) * np.logaddexp(0.0, overlap)
        push /= self._pushing_distances + self._own
        forces = forces - np.einsum("emc,emcx->emx", push, self._pushing_offsets)

        velocities = (1.0 - DAMPING) * self.velocities + TIME_STEP * forces
        if self._max_speed is not None:
            speed = np.sqrt(np.einsum("emx,emx->em", velocities, velocities))
            velocities *= (self._max_speed / np.maximum(speed, self._max_speed))[..., None]
        moves = TIME_STEP * (self.velocities if self._old_velocity else velocities)
        if frozen is not None:
            velocities[frozen] = self.velocities[frozen]
            moves[frozen] = 0.0
        self.velocities[...] = velocities
        self.positions[:, : moves.shape[1]] += moves
        self.measure()
