"""The saved model: its folder, its card, code that loads it without autotl, and exports."""
