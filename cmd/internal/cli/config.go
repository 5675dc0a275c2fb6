package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The configuration file is TOML. Keys are the names of flags: at the top for every command that has such a flag, in a
// table of the command's name for this command alone.
//
//	trackers = ["tracker.example:6969"]   # --tracker, as which there is a command, too
//	[relay]
//	upload = "50M"

const configName = "sixcast/config.toml"

// EnvPrefix begins the environment variables: --stats-file is SIXCAST_STATS_FILE. Lists are separated by spaces.
const EnvPrefix = "SIXCAST_"

// notSettings are flags that are no settings: they come from the command line only.
var notSettings = []string{"help", "version", "config"}

// settings fills the flags that the command line left out from the environment, then the file.
func (app *App) settings(flags *pflag.FlagSet) error {
	if !flags.Changed("config") {
		app.config = os.Getenv(EnvPrefix + "CONFIG")
	}
	table, err := app.readConfig(flags)
	if err != nil {
		return err
	}
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed || slices.Contains(notSettings, f.Name) {
			return
		}
		name := envName(f.Name)
		if v, ok := os.LookupEnv(name); ok {
			if err := setFlag(f, strings.Fields(v), v); err != nil {
				errs = append(errs, fmt.Errorf("%s=%s: %w", name, v, err))
			}
			return
		}
		if v, ok := table[f.Name]; ok {
			list, text := tomlValue(v)
			if err := setFlag(f, list, text); err != nil {
				errs = append(errs, fmt.Errorf("%s: %s = %v: %w", app.config, f.Name, v, err))
			}
		}
	})
	return errors.Join(errs...)
}

func envName(flag string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// setFlag gives f one value, or the list where f is one, and marks it as changed.
func setFlag(f *pflag.Flag, list []string, text string) error {
	f.Changed = true
	if sv, ok := f.Value.(pflag.SliceValue); ok {
		return sv.Replace(list)
	}
	return f.Value.Set(text)
}

func tomlValue(v any) (list []string, text string) {
	if many, ok := v.([]any); ok {
		for _, e := range many {
			list = append(list, fmt.Sprint(e))
		}
		return list, strings.Join(list, " ")
	}
	text = fmt.Sprint(v)
	return []string{text}, text
}

// readConfig is the settings for this command in the file, by flag name. No default file is no error.
func (app *App) readConfig(flags *pflag.FlagSet) (map[string]any, error) {
	explicit := app.config != ""
	if !explicit {
		dir, err := os.UserConfigDir()
		if err != nil {
			return nil, nil // no home, as in some service managers
		}
		app.config = filepath.Join(dir, configName)
	}
	text, err := os.ReadFile(app.config)
	switch {
	case !explicit && errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	var file map[string]any
	if err := toml.Unmarshal(text, &file); err != nil {
		var where *toml.DecodeError
		if errors.As(err, &where) {
			row, column := where.Position()
			return nil, fmt.Errorf("%s:%d:%d: %w", app.config, row, column, err)
		}
		return nil, fmt.Errorf("%s: %w", app.config, err)
	}
	table := make(map[string]any)
	for k, v := range file {
		if _, isTable := v.(map[string]any); !isTable {
			table[settingOf(k)] = v // perhaps another command's: no error if this one has no such flag
		}
	}
	own, _ := file[app.Name].(map[string]any)
	for _, k := range slices.Sorted(maps.Keys(own)) {
		name := settingOf(k)
		if flags.Lookup(name) == nil && !app.knows(name) {
			return nil, fmt.Errorf("%s: [%s] %s: %s has no such setting", app.config, app.Name, k, app.Name)
		}
		table[name] = own[k]
	}
	return table, nil
}

// settingOf is the flag of a key: lists may be called by their plural, and --tracker has to be, where there is a table [tracker].
func settingOf(key string) string {
	if key == "trackers" {
		return "tracker"
	}
	return key
}

// knows reports whether the command or one of its subcommands has a flag.
func (app *App) knows(flag string) bool {
	if app.root == nil {
		return false
	}
	return slices.ContainsFunc(append(app.root.Commands(), app.root), func(c *cobra.Command) bool { return c.Flags().Lookup(flag) != nil })
}
